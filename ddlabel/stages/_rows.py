"""Rows of an evaluation: what they are called while they are trained, their students, and what the record says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import _plugins
from ..events import Event
from ..nets._flops import TRAINING_STEP, forward_flops
from ..options import as_dict
from ..scores import summarise
from ..training import Recipe
from ._calibration import Calibration, calibrate, summarise_calibration
from ._gradcam import GradCam
from ._jobs import Job, Jobs, Outcome
from ._plan import Plan
from ._students import Watch, train_student
from ._trials import Trial, add_differences

__all__ = ["row_name", "row_record", "score_rows"]


def row_name(trial: Trial, recipe: Recipe, arch: str) -> str:
    """Images, labels, loss, optimiser where several are compared, and net."""
    how = f", {recipe.optimizer} {recipe.lr:g}" if trial.recipe else ""
    return f"{trial.images} images, {trial.label_kinds} labels, {trial.loss}{how}, {arch}"


def row_record(
    plan: Plan,
    trial: Trial,
    arch: str,
    recipe: Recipe,
    loss: Any,
    *,
    last: Sequence[float],
    best: Sequence[float],
    samples: int,
) -> dict[str, Any]:
    """The row as the manifest holds it.

    Args:
        plan, trial, arch: which row.
        recipe, loss: how it was trained.
        last: accuracies that are reported, one of each run.
        best: accuracies at the best look of each run, only noted.
        samples: seen in one run.
    """
    info = plan.dataset.info
    forward = forward_flops(arch, channels=info.channels, size=info.height, classes=len(info.classes))
    online = plan.online(trial, samples)
    return {
        "arch": arch,
        "images": trial.images,
        "labels": trial.label_kinds,
        "loss": {"name": trial.loss, "options": as_dict(loss)},
        "recipe": as_dict(recipe),
        "accuracy": summarise(last),
        "best_on_test": summarise(best),
        "samples_seen": samples,
        "flops": TRAINING_STEP * forward * samples * len(last) + online.get("teacher_flops", 0),
        "stored_bytes": plan.stored_bytes(trial),
        **online,
        **plan.tuning(trial),
    }


def score_rows(plan: Plan, jobs: Jobs, cam: GradCam | None) -> list[dict[str, Any]]:
    """Every row of students that see all classes at once, with paired differences.

    Args:
        plan: the evaluation.
        jobs: does the students.
        cam: looks at the first student of every net on the first row.
    """
    rows = [_Row(plan, number, arch, cam) for arch in plan.archs for number in range(len(plan.trials))]
    done = jobs.run([job for row in rows for job in row.jobs()])
    results = [row.result(done) for row in rows]
    add_differences(results)
    return results


@dataclass(frozen=True)
class _Row:
    """One row: its jobs, one for each seed, and what comes of them."""

    plan: Plan
    number: int
    """Of its trial."""
    arch: str
    cam: GradCam | None

    def jobs(self) -> list[Job]:
        """One for each student."""
        plan, trial = self.plan, self.plan.trials[self.number]
        recipe, loss = plan.recipe_and_loss(self.arch, trial)
        every = getattr(loss, "estimator", "views") == "full" and plan.labels is not None
        cost = plan.cost(
            self.arch,
            recipe,
            len(plan.distilled.labels),
            views=plan.labels.values.shape[1] if every and plan.labels is not None else 0,
            tested=len(plan.dataset.test),
            looks=self._looks() + 1,  # and once for the calibration
        )
        return [
            Job(self._key(index), cost, functools.partial(self._student, index)) for index in range(plan.config.seeds)
        ]

    def result(self, done: Mapping[str, Outcome]) -> dict[str, Any]:
        """The row as the manifest holds it, of the outcomes of all jobs."""
        plan, trial = self.plan, self.plan.trials[self.number]
        outcomes = [done[self._key(index)] for index in range(plan.config.seeds)]
        students = [outcome.record for outcome in outcomes]
        recipe, loss = plan.recipe_and_loss(self.arch, trial)
        row = row_record(
            plan,
            trial,
            self.arch,
            recipe,
            loss,
            last=[student["accuracies"][-1] for student in students],
            best=[max(student["accuracies"]) for student in students],
            samples=students[-1]["samples"],
        )
        row["calibration"] = summarise_calibration([Calibration(**student["calibration"]) for student in students])
        features = [student["features"] for student in students if "features" in student]
        if self.cam is not None and "gradcam" in students[0]:
            self.cam.show(students[0]["gradcam"], outcomes[0].tensors)
        return row | ({"features": _features(features)} if features else {})

    def _student(self, index: int, watch: Watch) -> Outcome:
        plan, trial = self.plan, self.plan.trials[self.number]
        recipe, loss = plan.recipe_and_loss(self.arch, trial)
        name = f"{row_name(trial, recipe, self.arch)}, seed {index}"
        scored = train_student(
            plan.student_data(trial, index),
            recipe,
            loss,
            arch=self.arch,
            info=plan.dataset.info,
            scored_on=plan.dataset.test,
            looks=self._looks(),
            seed=plan.config.seed,
            path=("student", self.arch, index),
            device=plan.clock.device,
            on_event=lambda event: plan.on_event(dataclasses.replace(event, phase=name)),
            use=plan.use,
            respond=plan.respond(trial),
            watch=watch,
        )
        record: dict[str, Any] = {
            "accuracies": scored.accuracies,
            "samples": scored.samples,
            "calibration": dataclasses.asdict(calibrate(scored.net, plan.dataset, plan.distilled.space)),
        }
        tensors: dict[str, Tensor] = {}
        if scored.features is not None:
            record["features"] = scored.features
        if self.cam is not None and self.number == index == 0:
            record["gradcam"], tensors = self.cam.look(scored.net, self.arch)
        plan.on_event(Event(phase=name, message=f"{name}: {scored.accuracies[-1]:.2%}"))
        return Outcome(record, tensors)

    def _key(self, index: int) -> str:
        return f"{self.arch}.{self.number}.{index}"

    def _looks(self) -> int:
        looks: int = _plugins.load("protocols", self.plan.protocol, "PROTOCOL").test_evaluations
        return looks


def _features(students: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row says of its students' adapters: counts once, numbers student by student."""
    return {name: students[0][name] for name in ("layer", "adapter", "adapter_parameters")} | {
        name: [student[name] for student in students] for name in ("adapter_norm", "mse")
    }
