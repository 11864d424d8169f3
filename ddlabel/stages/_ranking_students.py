"""The students that DD-Ranking compares: of one net, at learning rates chosen on held-out training images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from .. import seeding
from ..augment._augment import build as build_augmentation
from ..errors import DivergedError
from ..events import Event, OnEvent
from ..nets._flops import TRAINING_STEP, forward_flops
from ..nets._net import build
from ..options import as_dict
from ..protocols.ddranking import RankingOptions
from ..scores import summarise
from ..students import StudentData
from ..training import Encoder, Recipe, accuracy, minibatches, train
from ._calibration import Calibration, calibrate, summarise_calibration
from ._gradcam import GradCam
from ._plan import Plan
from ._students import Scored, train_student
from ._trials import BUNDLE, Trial

__all__ = ["PLAIN", "REAL", "Cell", "Students"]

REAL = "real"
PLAIN = "-not-augmented"
"""Ends the name of the images of rows whose students see them without augmentation."""


@dataclass(frozen=True)
class Cell:
    """What students of a row train on."""

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
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By label mode (`hard`, `any`, `real`): the rate, and accuracies on held-out images it was chosen by."""
    spent: int = 0
    """Samples seen by students that were not chosen."""
    random: dict[tuple[str, int], StudentData] = field(default_factory=dict)
    """The last random images, with their labels."""

    def rows(self, mode: str, cells: Sequence[Cell], cam: GradCam | None) -> list[dict[str, Any]]:
        """One row per cell, at the rate of the label mode, which the first students choose where none is chosen yet."""
        firsts: list[Scored] | None = None if mode in self.choices else self._choose(mode, cells)
        rate = self.choices[mode]["lr"]
        rows = []
        for place, cell in enumerate(cells):
            values, calibrations, samples = [], list[Calibration](), 0
            for index in range(self.plan.config.seeds):
                student = firsts[place] if firsts and not index else self._student(cell, rate, index)
                test, samples = self.plan.dataset.test, student.samples
                values.append(accuracy(student.net, test.pixels, test.labels, space=self.plan.distilled.space))
                calibrations.append(calibrate(student.net, self.plan.dataset, self.plan.distilled.space))
                name = f"{self._name(cell, rate)}, seed {index}"
                self.plan.on_event(Event(phase=name, message=f"{name}: {values[-1]:.2%}"))
                if cam is not None and place == index == 0:
                    cam.look(student.net, self.arch)
            rows.append(self._row(cell, rate, values, calibrations, samples))
        return rows

    def _choose(self, mode: str, cells: Sequence[Cell]) -> list[Scored]:
        """Choose the rate of a label mode: the best mean of the cells on held-out images, the first of equals.

        Returns:
            The first student of each cell at that rate.
        """
        best: tuple[float, float, list[Scored]] | None = None
        seen: list[dict[str, Any]] = []
        failure: DivergedError | None = None
        for rate in self.options.rates:
            try:
                students = [self._student(cell, rate, 0) for cell in cells]
            except DivergedError as error:
                failure = error
                seen.append({"lr": rate, "held_out": None})
                continue
            scores = [student.accuracies[-1] for student in students]
            seen.append({"lr": rate, "held_out": {cell.name: score for cell, score in zip(cells, scores, strict=True)}})
            loser = students
            if best is None or fmean(scores) > best[0]:
                loser, best = (best[2] if best else []), (fmean(scores), rate, students)
            self.spent += sum(student.samples for student in loser)
        if best is None:
            raise failure or ValueError("no rates to choose from")
        self.choices[mode] = {"lr": best[1], "candidates": seen}
        message = f"{self.arch}, {mode} labels: learning rate {best[1]:g}, chosen on held-out images"
        self.plan.on_event(Event(phase="ranking", message=message))
        return best[2]

    def _student(self, cell: Cell, rate: float, index: int) -> Scored:
        """Train one student and score it on held-out images; test data is not looked at."""
        if cell.trial.images == REAL:
            return self._real_student(cell, rate, index)
        plan = self.plan
        recipe, loss = self.recipe_and_loss(cell.trial)
        recipe = dataclasses.replace(recipe, lr=rate, augment=recipe.augment if cell.augmented else "none")
        return train_student(
            self._data(cell.trial, index),
            recipe,
            loss,
            arch=self.arch,
            info=plan.dataset.info,
            scored_on=plan.dataset.validation,
            looks=1,
            seed=plan.config.seed,
            path=("student", self.arch, index),
            device=plan.clock.device,
            on_event=self._telling(cell, rate, index),
            use=plan.use,
        )

    def _real_student(self, cell: Cell, rate: float, index: int) -> Scored:
        """One of the whole training split, which exists as pixels alone."""
        plan, path = self.plan, ("student", self.arch, index)
        info, split, held_out = plan.dataset.info, plan.dataset.train, plan.dataset.validation
        recipe, loss = self.recipe_and_loss(cell.trial)
        recipe = dataclasses.replace(recipe, lr=rate)
        net = build(
            self.arch,
            channels=info.channels,
            size=info.height,
            classes=len(info.classes),
            generator=seeding.generator(plan.config.seed, *path, "init"),
        ).to(plan.clock.device)
        space, device = plan.distilled.space, plan.clock.device
        train(
            net,
            minibatches(split.pixels, split.labels, batch=recipe.batch, space=space, device=device, encode=self.encode),
            recipe,
            loss,
            build_augmentation(recipe.augment, flip=info.flip),
            seed=plan.config.seed,
            seed_path=path,
            on_event=self._telling(cell, rate, index),
        )
        score = accuracy(net, held_out.pixels, held_out.labels, space=space)
        return Scored([score], recipe.rounds * len(split), net)

    def _data(self, trial: Trial, index: int) -> StudentData:
        """What a student trains on; random images are labelled once for all rates."""
        if trial.images == BUNDLE:
            return self.plan.student_data(trial, index)
        key = (trial.label_kinds, index)
        if key not in self.random:
            self.random.clear()
            self.random[key] = self.plan.student_data(trial, index)
        return self.random[key]

    def recipe_and_loss(self, trial: Trial) -> tuple[Recipe, Any]:
        """Of a row; the learning rate is still to be chosen."""
        recipe, loss = self.plan.recipe_and_loss(self.arch, trial)
        if trial.images == REAL:
            recipe = dataclasses.replace(recipe, epochs=self.options.real_epochs)
        return recipe, loss

    def _row(
        self, cell: Cell, rate: float, values: list[float], calibrations: list[Calibration], samples: int
    ) -> dict[str, Any]:
        plan, trial = self.plan, cell.trial
        recipe, loss = self.recipe_and_loss(trial)
        recipe = dataclasses.replace(recipe, lr=rate, augment=recipe.augment if cell.augmented else "none")
        is_real = trial.images == REAL
        return {
            "arch": self.arch,
            "images": cell.name,
            "labels": trial.label_kinds,
            "loss": {"name": trial.loss, "options": as_dict(loss)},
            "recipe": as_dict(recipe),
            "accuracy": summarise(values),
            "best_on_test": summarise(values),
            "calibration": summarise_calibration(calibrations),
            "samples_seen": samples,
            "flops": self.flops(samples * plan.config.seeds),
            "stored_bytes": self._real_bytes() if is_real else plan.stored_bytes(trial),
        }

    def _real_bytes(self) -> int:
        """Of the training split as pixels, without its labels."""
        info = self.plan.dataset.info
        return len(self.plan.dataset.train) * info.channels * info.height * info.width

    def flops(self, samples: int) -> int:
        """Of so many samples seen in training."""
        info = self.plan.dataset.info
        forward = forward_flops(self.arch, channels=info.channels, size=info.height, classes=len(info.classes))
        return TRAINING_STEP * forward * samples

    def _name(self, cell: Cell, rate: float) -> str:
        trial = cell.trial
        return f"{cell.name} images, {trial.label_kinds} labels, {trial.loss}, lr {rate:g}, {self.arch}"

    def _telling(self, cell: Cell, rate: float, index: int) -> OnEvent:
        name = f"{self._name(cell, rate)}, seed {index}"
        return lambda event: self.plan.on_event(dataclasses.replace(event, phase=name))
