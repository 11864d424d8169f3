"""Rows of an evaluation: what they are called while they are trained, their students, and what the record says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .. import _plugins
from ..events import Event
from ..nets._flops import TRAINING_STEP, forward_flops
from ..options import as_dict
from ..scores import summarise
from ..training import Recipe
from ._calibration import calibrate, summarise_calibration
from ._gradcam import GradCam
from ._plan import Plan
from ._students import train_student
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


def score_rows(plan: Plan, cam: GradCam | None) -> list[dict[str, Any]]:
    """Every row of students that see all classes at once, with paired differences.

    Args:
        plan: the evaluation.
        cam: looks at the first student of every net on the first row.
    """
    first = plan.trials[0]
    results = [
        _score_row(plan, trial, arch, cam if trial is first else None) for arch in plan.archs for trial in plan.trials
    ]
    add_differences(results)
    return results


def _score_row(plan: Plan, trial: Trial, arch: str, cam: GradCam | None) -> dict[str, Any]:
    recipe, loss = plan.recipe_and_loss(arch, trial)
    looks = _plugins.load("protocols", plan.protocol, "PROTOCOL").test_evaluations
    last, best, samples = [], [], 0
    features: list[Mapping[str, Any]] = []
    calibrations = []
    for index in range(plan.config.seeds):
        name = f"{row_name(trial, recipe, arch)}, seed {index}"
        scored = train_student(
            plan.student_data(trial, index),
            recipe,
            loss,
            arch=arch,
            info=plan.dataset.info,
            scored_on=plan.dataset.test,
            looks=looks,
            seed=plan.config.seed,
            path=("student", arch, index),
            device=plan.clock.device,
            on_event=lambda event, name=name: plan.on_event(dataclasses.replace(event, phase=name)),  # type: ignore[misc]
            use=plan.use,
            respond=plan.respond(trial),
        )
        last.append(scored.accuracies[-1])
        best.append(max(scored.accuracies))
        samples = scored.samples
        calibrations.append(calibrate(scored.net, plan.dataset, plan.distilled.space))
        if cam is not None and index == 0:
            cam.look(scored.net, arch)
        if scored.features is not None:
            features.append(scored.features)
        plan.on_event(Event(phase=name, message=f"{name}: {last[-1]:.2%}"))
    row = row_record(plan, trial, arch, recipe, loss, last=last, best=best, samples=samples)
    row["calibration"] = summarise_calibration(calibrations)
    return row | ({"features": _features(features)} if features else {})


def _features(students: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row says of its students' adapters: counts once, numbers student by student."""
    return {name: students[0][name] for name in ("layer", "adapter", "adapter_parameters")} | {
        name: [student[name] for student in students] for name in ("adapter_norm", "mse")
    }
