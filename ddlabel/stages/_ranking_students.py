"""The students that DD-Ranking compares: of one net, at learning rates chosen on held-out training images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from torch import Tensor

from ..errors import DivergedError
from ..events import Event, OnEvent
from ..nets._flops import TRAINING_STEP, forward_flops
from ..options import as_dict
from ..protocols.ddranking import RankingOptions
from ..scores import summarise
from ..students import StudentData
from ..training import Encoder, Recipe, accuracy
from ._calibration import Calibration, calibrate, summarise_calibration
from ._gradcam import GradCam
from ._jobs import Job, Outcome
from ._plan import Plan
from ._students import Scored, Watch, train_real_student, train_student
from ._trials import BUNDLE, RANDOM, Trial

__all__ = ["PLAIN", "REAL", "Cell", "Rows", "Students"]

REAL = "real"
PLAIN = "-not-augmented"
"""Ends the name of the images of rows whose students see them without augmentation."""
Rows = dict[str, dict[str, Any]]
"""Rows by what they are in the scores: `real_hard`, and `bundle` and `random`, each `_any`, `_plain` and `_hard`."""


@dataclass(frozen=True)
class Cell:
    """What students of a row train on."""

    mode: str
    """Of labels, each with a learning rate of its own: `any`, `hard` or `real`."""
    trial: Trial
    augmented: bool = True

    @property
    def name(self) -> str:
        """Of its images."""
        return self.trial.images + ("" if self.augmented else PLAIN)


@dataclass
class Students:
    """All students of one net."""

    plan: Plan
    options: RankingOptions
    arch: str
    encode: Encoder
    cells: Mapping[str, Cell]
    """By the name of the row."""
    cam: GradCam | None
    """Looks at the first student of the first row."""
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By label mode: the rate, and accuracies on held-out images it was chosen by."""
    spent: int = 0
    """Samples seen by students that were not chosen."""
    random: dict[tuple[str, int], StudentData] = field(default_factory=dict)
    """The last random images, with their labels."""

    @property
    def students(self) -> int:
        """How many there will be."""
        return len(self.candidates()) + len(self.cells) * self.plan.config.seeds - len(set(self._choosing()))

    def candidates(self) -> list[Job]:
        """The first student of every row that has a say in the learning rate of its mode, at every rate."""
        return [self._job(row, rate, 0) for row in self._choosing() for rate in self._rates()]

    def choose(self, done: Mapping[str, Outcome]) -> None:
        """Choose the rate of every label mode: the best mean of its rows on held-out images, the first of equals.

        What the same students say of test images is not looked at.

        Raises:
            DivergedError: at every rate.
        """
        for mode in dict.fromkeys(cell.mode for cell in self.cells.values()):
            rows = [row for row in self._choosing() if self.cells[row].mode == mode]
            best: tuple[float, float, int] | None = None
            seen: list[dict[str, Any]] = []
            failures: list[dict[str, Any]] = []
            for rate in self._rates():
                students = [done[self._key(row, rate, 0)].record for row in rows]
                failures += [student["diverged"] for student in students if "diverged" in student]
                if any("diverged" in student for student in students):
                    seen.append({"lr": rate, "held_out": None})
                    continue
                scores = [student["held_out"] for student in students]
                names = [self.cells[row].name for row in rows]
                seen.append({"lr": rate, "held_out": dict(zip(names, scores, strict=True))})
                samples = sum(student["samples"] for student in students)
                if best is None or fmean(scores) > best[0]:
                    self.spent += best[2] if best else 0
                    best = fmean(scores), rate, samples
                else:
                    self.spent += samples
            if best is None:
                raise DivergedError(**failures[-1])
            self.choices[mode] = {"lr": best[1], "candidates": seen}
            message = f"{self.arch}, {mode} labels: learning rate {best[1]:g}, chosen on held-out images"
            self.plan.on_event(Event(phase="ranking", message=message))

    def others(self) -> list[Job]:
        """All other students, at the rate of their mode."""
        tried = set(self._choosing())
        return [
            self._job(row, self._rate(row), index)
            for row in self.cells
            for index in range(1 if row in tried else 0, self.plan.config.seeds)
        ]

    def rows(self, done: Mapping[str, Outcome]) -> Rows:
        """One row per cell, of the outcomes of all jobs."""
        rows = {}
        for place, (row, cell) in enumerate(self.cells.items()):
            rate = self._rate(row)
            outcomes = [done[self._key(row, rate, index)] for index in range(self.plan.config.seeds)]
            students = [outcome.record for outcome in outcomes]
            for index, student in enumerate(students):
                name = f"{self._name(cell, rate)}, seed {index}"
                self.plan.on_event(Event(phase=name, message=f"{name}: {student['test']:.2%}"))
            if self.cam is not None and place == 0:
                self.cam.show(students[0]["gradcam"], outcomes[0].tensors)
            rows[row] = self._row(cell, rate, students)
        return rows

    def recipe_and_loss(self, trial: Trial) -> tuple[Recipe, Any]:
        """Of a row; the learning rate is still to be chosen."""
        recipe, loss = self.plan.recipe_and_loss(self.arch, trial)
        if trial.images == REAL:
            recipe = dataclasses.replace(recipe, epochs=self.options.real_epochs)
        return recipe, loss

    def flops(self, samples: int) -> int:
        """Of so many samples seen in training."""
        info = self.plan.dataset.info
        forward = forward_flops(self.arch, channels=info.channels, size=info.height, classes=len(info.classes))
        return TRAINING_STEP * forward * samples

    def _choosing(self) -> list[str]:
        """Rows whose first students choose the rate: those that see their images as they are evaluated."""
        return [row for row, cell in self.cells.items() if cell.augmented]

    def _rates(self) -> list[float]:
        return list(dict.fromkeys(self.options.rates))

    def _rate(self, row: str) -> float:
        return float(self.choices[self.cells[row].mode]["lr"])

    def _key(self, row: str, rate: float, index: int) -> str:
        return f"{self.arch}.{row}.{rate!r}.{index}"

    def _job(self, row: str, rate: float, index: int) -> Job:
        plan, trial = self.plan, self.cells[row].trial
        recipe, _loss = self.recipe_and_loss(trial)
        images = len(plan.dataset.train) if trial.images == REAL else len(plan.distilled.labels)
        tested = len(plan.dataset.validation) + 2 * len(plan.dataset.test)
        labelled = trial.images == RANDOM and trial.label_kinds != "hard"
        return Job(
            self._key(row, rate, index),
            plan.cost(self.arch, recipe, images, tested=tested),
            functools.partial(self._outcome, row, rate, index),
            group=f"{self.arch}.{trial.label_kinds}.{index}" if labelled else "",
        )

    def _outcome(self, row: str, rate: float, index: int, watch: Watch) -> Outcome:
        """Train one student; what it says of test images is noted, in case it is chosen."""
        plan, cell = self.plan, self.cells[row]
        name = f"{self._name(cell, rate)}, seed {index}"
        try:
            student = self._student(cell, rate, index, name, watch)
        except DivergedError as error:
            if index or row not in self._choosing():
                raise
            return Outcome({"diverged": {"message": error.message, "field": error.field, "hint": error.hint}})
        test, space = plan.dataset.test, plan.distilled.space
        record = {
            "held_out": student.accuracies[-1],
            "samples": student.samples,
            "test": accuracy(student.net, test.pixels, test.labels, space=space),
            "calibration": dataclasses.asdict(calibrate(student.net, plan.dataset, space)),
        }
        tensors: dict[str, Tensor] = {}
        if self.cam is not None and index == 0 and row == next(iter(self.cells)):
            record["gradcam"], tensors = self.cam.look(student.net, self.arch)
        plan.on_event(Event(phase=name, message=f"{name}: {student.accuracies[-1]:.2%} of held-out images"))
        return Outcome(record, tensors)

    def _student(self, cell: Cell, rate: float, index: int, name: str, watch: Watch) -> Scored:
        """Train one student and score it on held-out images."""
        plan, is_real = self.plan, cell.trial.images == REAL
        recipe, loss = self.recipe_and_loss(cell.trial)
        recipe = dataclasses.replace(recipe, lr=rate, augment=recipe.augment if cell.augmented else "none")
        on_event: OnEvent = lambda event: plan.on_event(dataclasses.replace(event, phase=name))  # noqa: E731
        common: dict[str, Any] = {
            "arch": self.arch,
            "info": plan.dataset.info,
            "scored_on": plan.dataset.validation,
            "seed": plan.config.seed,
            "path": ("student", self.arch, index),
            "device": plan.clock.device,
            "on_event": on_event,
            "watch": watch,
        }
        if is_real:
            space = plan.distilled.space
            return train_real_student(plan.dataset.train, recipe, loss, encode=self.encode, space=space, **common)
        return train_student(self._data(cell.trial, index), recipe, loss, looks=1, use=plan.use, **common)

    def _data(self, trial: Trial, index: int) -> StudentData:
        """What a student trains on; random images are labelled once for all rates."""
        if trial.images == BUNDLE:
            return self.plan.student_data(trial, index)
        key = (trial.label_kinds, index)
        if key not in self.random:
            self.random.clear()
            self.random[key] = self.plan.student_data(trial, index)
        return self.random[key]

    def _row(self, cell: Cell, rate: float, students: list[Mapping[str, Any]]) -> dict[str, Any]:
        plan, trial = self.plan, cell.trial
        recipe, loss = self.recipe_and_loss(trial)
        recipe = dataclasses.replace(recipe, lr=rate, augment=recipe.augment if cell.augmented else "none")
        values, samples = [student["test"] for student in students], students[-1]["samples"]
        return {
            "arch": self.arch,
            "images": cell.name,
            "labels": trial.label_kinds,
            "loss": {"name": trial.loss, "options": as_dict(loss)},
            "recipe": as_dict(recipe),
            "accuracy": summarise(values),
            "best_on_test": summarise(values),
            "calibration": summarise_calibration([Calibration(**student["calibration"]) for student in students]),
            "samples_seen": samples,
            "flops": self.flops(samples * plan.config.seeds),
            "stored_bytes": self._real_bytes() if trial.images == REAL else plan.stored_bytes(trial),
        }

    def _real_bytes(self) -> int:
        """Of the training split as pixels, without its labels."""
        info = self.plan.dataset.info
        return len(self.plan.dataset.train) * info.channels * info.height * info.width

    def _name(self, cell: Cell, rate: float) -> str:
        trial = cell.trial
        return f"{cell.name} images, {trial.label_kinds} labels, {trial.loss}, lr {rate:g}, {self.arch}"
