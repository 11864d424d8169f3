"""Class-incremental evaluation: GDumb's memory of stored images, a fresh student at every step.

The memory of a step is the stored images of all classes so far; a fresh net with outputs for all classes is trained on
it and scored on the test images of these classes.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..data._dataset import Split
from ..errors import DataError
from ..events import Event
from ..labels._labels import LabelSet
from ..labels._subset import labels_of_images
from ..losses._seen import SeenLoss
from ..scores import summarise
from ..students import StudentData
from ..training import predict
from ._increments import Increments
from ._plan import Plan
from ._rows import row_name, row_record
from ._students import train_student
from ._summary import DIFFERENCES
from ._trials import Trial, add_differences

__all__ = ["by_steps", "memory_of", "score_increments", "seen_accuracy"]


def memory_of(data: StudentData, seen: Tensor, *, samples: int | None) -> StudentData:
    """The part of a training set that is of the classes seen, (s,) int64; all class numbers stay.

    Args:
        data: images and class labels.
        seen: classes.
        samples: whole images in an epoch, for sets that are compared at another set's number.

    Raises:
        UsageError: an image without a labelled view of seen images alone.
    """
    distilled = data.distilled
    chosen = torch.isin(distilled.labels, seen).nonzero()[:, 0]
    part = dataclasses.replace(distilled, images=distilled.images[chosen], labels=distilled.labels[chosen])
    labels = None if data.labels is None else labels_of_images(data.labels, chosen)
    return StudentData(part, labels, samples=samples)


@dataclass(frozen=True)
class _Step:
    """One student."""

    accuracy: float
    """Of the last epoch, by the largest of all outputs."""
    best: float
    """At the best look."""
    seen_only: float
    """By the largest output of a class seen."""
    images: int
    """In memory."""
    batch: int
    samples: int


def by_steps(results: Sequence[dict[str, Any]]) -> dict[int | None, list[dict[str, Any]]]:
    """Rows that may be compared: those of one number of steps; None for rows that saw all classes at once."""
    groups: dict[int | None, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result.get("incremental", {}).get("steps"), []).append(result)
    return groups


def score_increments(plan: Plan, increments: Increments) -> list[dict[str, Any]]:
    """Every row: numbers of steps, then nets, then training sets and losses, with paired differences step by step."""
    _check_memories(plan, increments)
    results = []
    for steps in increments.steps:
        rows = [_score_row(plan, increments, steps, trial, arch) for arch in plan.archs for trial in plan.trials]
        _add_step_differences(rows)
        results += rows
    return results


def _check_memories(plan: Plan, increments: Increments) -> None:
    """Refuse, before any student, memories that nothing can be trained or scored on.

    Raises:
        DataError: classes of a first step without stored or test images.
        UsageError: an image without a labelled view of seen images alone.
    """
    labels = None if plan.labels is None else _alone(plan.labels)
    for steps, order in itertools.product(increments.steps, range(len(increments.orders))):
        for step in range(steps):
            seen = increments.seen(steps, order, step)
            chosen = torch.isin(plan.distilled.labels, seen).nonzero()[:, 0]
            for what, count in (
                ("stored", len(chosen)),
                ("test", int(torch.isin(plan.dataset.test.labels, seen).sum())),
            ):
                if not count:
                    names = ", ".join(plan.distilled.classes[index] for index in seen[:5])
                    raise DataError(
                        f"order {order}, step {step + 1} of {steps} has classes {names} and no {what} image of them",
                        field="incremental",
                        hint="use fewer steps or another --seed",
                    )
            if labels is not None:
                labels_of_images(labels, chosen)


def _alone(labels: LabelSet) -> LabelSet:
    """The same labels, with draws of views at hand instead of drawn again for every memory."""
    return labels_of_images(labels, torch.arange(len(labels.values)))


def _score_row(plan: Plan, increments: Increments, steps: int, trial: Trial, arch: str) -> dict[str, Any]:
    runs = []
    for order, seed in itertools.product(range(len(increments.orders)), range(plan.config.seeds)):
        data = plan.student_data(trial, order * plan.config.seeds + seed)
        if data.labels is not None:
            data = dataclasses.replace(data, labels=_alone(data.labels))
        run = [_train(plan, increments, data, trial, arch, (steps, order, step, seed)) for step in range(steps)]
        runs.append(run)
        recipe, _loss = plan.recipe_and_loss(arch, trial)
        curve = ", ".join(f"{each.accuracy:.1%}" for each in run)
        name = f"{row_name(trial, recipe, arch)}, {steps} steps, order {order}, seed {seed}"
        plan.on_event(Event(phase=name, message=f"{name}: {curve}"))
    recipe, loss = plan.recipe_and_loss(arch, trial)
    row = row_record(
        plan,
        trial,
        arch,
        recipe,
        loss,
        last=[statistics.fmean(step.accuracy for step in run) for run in runs],
        best=[statistics.fmean(step.best for step in run) for run in runs],
        samples=max(sum(step.samples for step in run) for run in runs),
    )
    return row | {
        "seen_only": summarise([statistics.fmean(step.seen_only for step in run) for run in runs]),
        "incremental": {
            "steps": steps,
            "leaks_future_classes": increments.leaks(trial.labels),
            "curve": [
                _point(increments, steps, number, students) for number, students in enumerate(zip(*runs, strict=True))
            ],
        },
    }


def _point(increments: Increments, steps: int, step: int, students: Sequence[_Step]) -> dict[str, Any]:
    """One step over all runs."""
    return {
        "classes": len(increments.seen(steps, 0, step)),
        "images": sorted({student.images for student in students}),
        "batch": sorted({student.batch for student in students}),
        "samples_seen": sorted({student.samples for student in students}),
        "accuracy": summarise([student.accuracy for student in students]),
        "seen_only": summarise([student.seen_only for student in students]),
    }


def _train(
    plan: Plan, increments: Increments, data: StudentData, trial: Trial, arch: str, place: tuple[int, int, int, int]
) -> _Step:
    """One student: (steps, order, step, seed)."""
    steps, order, step, seed = place
    seen = increments.seen(steps, order, step)
    stored = int(torch.isin(plan.distilled.labels, seen).sum())
    memory = memory_of(data, seen, samples=None if data.samples is None else stored)
    recipe, loss = plan.recipe_and_loss(arch, trial, stored_images=stored)
    mask = torch.zeros(len(plan.distilled.classes), dtype=torch.bool)
    mask[seen] = True
    test = plan.dataset.test
    of_seen = mask[test.labels].nonzero()[:, 0]
    scored_on = Split(test.pixels[of_seen], test.labels[of_seen])
    name = f"{row_name(trial, recipe, arch)}, step {step + 1} of {steps}, order {order}, seed {seed}"
    scored = train_student(
        memory,
        recipe,
        SeenLoss(loss, mask) if memory.labels is not None and not increments.leaks(trial.labels) else loss,
        arch=arch,
        info=plan.dataset.info,
        scored_on=scored_on,
        looks=_plugins.load("protocols", plan.protocol, "PROTOCOL").test_evaluations,
        seed=plan.config.seed,
        path=("student", arch, "incremental", steps, order, step, seed),
        device=plan.clock.device,
        on_event=lambda event: plan.on_event(dataclasses.replace(event, phase=name)),
    )
    logits = predict(scored.net, scored_on.pixels, space=memory.distilled.space)
    return _Step(
        scored.accuracies[-1],
        max(scored.accuracies),
        seen_accuracy(logits, scored_on.labels, mask),
        len(memory.distilled.labels),
        recipe.batch,
        scored.samples,
    )


def seen_accuracy(logits: Tensor, labels: Tensor, seen: Tensor) -> float:
    """Top-1 accuracy in [0, 1] of logits (n, k) with classes (n,), guesses being seen classes, (k,) bool."""
    guesses = logits.masked_fill(~seen, -torch.inf).argmax(dim=1)
    return float((guesses == labels).double().mean())


def _add_step_differences(rows: Sequence[dict[str, Any]]) -> None:
    """Paired differences of the averages and of every step."""
    add_differences(rows)
    for points in zip(*(row["incremental"]["curve"] for row in rows), strict=True):
        views = [dict(row, accuracy=point["accuracy"]) for row, point in zip(rows, points, strict=True)]
        add_differences(views)
        for view, point in zip(views, points, strict=True):
            point |= {name: view[name] for name in DIFFERENCES if name in view}
