"""Class-incremental evaluation: GDumb's memory of stored images, a fresh student at every step.

The memory of a step is the stored images of all classes so far; a fresh net with outputs for all classes is trained on
it and scored on the test images of these classes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
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
from ._jobs import Job, Jobs, Outcome
from ._plan import Plan
from ._rows import row_name, row_record
from ._students import Watch, train_student
from ._summary import DIFFERENCES
from ._trials import RANDOM, Trial, add_differences

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


def by_steps(results: Sequence[dict[str, Any]]) -> dict[int | None, list[dict[str, Any]]]:
    """Rows that may be compared: those of one number of steps; None for rows that saw all classes at once."""
    groups: dict[int | None, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result.get("incremental", {}).get("steps"), []).append(result)
    return groups


def score_increments(plan: Plan, increments: Increments, jobs: Jobs) -> list[dict[str, Any]]:
    """Every row: numbers of steps, then nets, then training sets and losses, with paired differences step by step."""
    _check_memories(plan, increments)
    memories = _Memories(plan)
    numbers = range(len(plan.trials))
    blocks = [
        [_Row(plan, increments, memories, steps, arch, number) for arch in plan.archs for number in numbers]
        for steps in increments.steps
    ]
    runs = {key: (row, run) for rows in blocks for row in rows for run in row.runs() for key in row.keys(run)}

    def said(job: Job, finished: Mapping[str, Outcome]) -> None:
        row, run = runs[job.key]
        if all(key in finished for key in row.keys(run)):
            row.say(run, finished)

    done = jobs.run([job for rows in blocks for row in rows for job in row.jobs()], said)
    results = []
    for rows in blocks:
        block = [row.result(done) for row in rows]
        _add_step_differences(block)
        results += block
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


class _Memories:
    """What the students of a run remember at most; the last one is kept, because all steps of a run share it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last: tuple[tuple[int, int], StudentData] | None = None

    def of(self, number: int, index: int) -> StudentData:
        """Everything that student `index` of a trial ever sees."""
        if self._last is None or self._last[0] != (number, index):
            self._last = None
            data = self._plan.student_data(self._plan.trials[number], index)
            if data.labels is not None:
                data = dataclasses.replace(data, labels=_alone(data.labels))
            self._last = (number, index), data
        return self._last[1]


Run = tuple[int, int]
"""Order and seed."""


@dataclass(frozen=True)
class _Row:
    """One row: a job for each step of each run, and what comes of them."""

    plan: Plan
    increments: Increments
    memories: _Memories
    steps: int
    arch: str
    number: int
    """Of its trial."""

    @property
    def trial(self) -> Trial:
        """Training set and loss."""
        return self.plan.trials[self.number]

    def runs(self) -> list[Run]:
        """Orders, and seeds within each."""
        return list(itertools.product(range(len(self.increments.orders)), range(self.plan.config.seeds)))

    def keys(self, run: Run) -> list[str]:
        """Of the jobs of a run, step by step."""
        return [f"{self._group(run)}.{step}" for step in range(self.steps)]

    def jobs(self) -> list[Job]:
        """Step by step, run by run."""
        labelled = self.trial.images == RANDOM and self.trial.labels != "hard"
        return [
            Job(
                key,
                self._cost(run, step),
                functools.partial(self._student, run, step),
                group=self._group(run) if labelled else "",
            )
            for run in self.runs()
            for step, key in enumerate(self.keys(run))
        ]

    def say(self, run: Run, done: Mapping[str, Outcome]) -> None:
        """Tell of a run that is finished."""
        curve = ", ".join(f"{done[key].record['accuracy']:.1%}" for key in self.keys(run))
        recipe, _loss = self.plan.recipe_and_loss(self.arch, self.trial)
        name = f"{row_name(self.trial, recipe, self.arch)}, {self.steps} steps, order {run[0]}, seed {run[1]}"
        self.plan.on_event(Event(phase=name, message=f"{name}: {curve}"))

    def result(self, done: Mapping[str, Outcome]) -> dict[str, Any]:
        """The row as the manifest holds it, of the outcomes of all jobs."""
        plan, increments, trial = self.plan, self.increments, self.trial
        runs = [[done[key].record for key in self.keys(run)] for run in self.runs()]
        recipe, loss = plan.recipe_and_loss(self.arch, trial)
        row = row_record(
            plan,
            trial,
            self.arch,
            recipe,
            loss,
            last=[statistics.fmean(step["accuracy"] for step in run) for run in runs],
            best=[statistics.fmean(step["best"] for step in run) for run in runs],
            samples=max(sum(step["samples"] for step in run) for run in runs),
        )
        return row | {
            "seen_only": summarise([statistics.fmean(step["seen_only"] for step in run) for run in runs]),
            "incremental": {
                "steps": self.steps,
                "leaks_future_classes": increments.leaks(trial.labels),
                "curve": [
                    _point(increments, self.steps, number, students)
                    for number, students in enumerate(zip(*runs, strict=True))
                ],
            },
        }

    def _group(self, run: Run) -> str:
        return f"{self.steps}.{self.arch}.{self.number}.{run[0]}.{run[1]}"

    def _stored(self, seen: Tensor) -> int:
        """Images of classes that a distilled set has."""
        return int(torch.isin(self.plan.distilled.labels, seen).sum())

    def _cost(self, run: Run, step: int) -> float:
        seen = self.increments.seen(self.steps, run[0], step)
        stored = self._stored(seen)
        recipe, _loss = self.plan.recipe_and_loss(self.arch, self.trial, stored_images=stored)
        tested = int(torch.isin(self.plan.dataset.test.labels, seen).sum())
        return self.plan.cost(self.arch, recipe, stored, tested=tested)

    def _student(self, run: Run, step: int, watch: Watch) -> Outcome:
        plan, trial, (order, seed) = self.plan, self.trial, run
        seen = self.increments.seen(self.steps, order, step)
        stored = self._stored(seen)
        data = self.memories.of(self.number, order * plan.config.seeds + seed)
        memory = memory_of(data, seen, samples=None if data.samples is None else stored)
        recipe, loss = plan.recipe_and_loss(self.arch, trial, stored_images=stored)
        mask = torch.zeros(len(plan.distilled.classes), dtype=torch.bool)
        mask[seen] = True
        test = plan.dataset.test
        of_seen = mask[test.labels].nonzero()[:, 0]
        scored_on = Split(test.pixels[of_seen], test.labels[of_seen])
        name = f"{row_name(trial, recipe, self.arch)}, step {step + 1} of {self.steps}, order {order}, seed {seed}"
        scored = train_student(
            memory,
            recipe,
            SeenLoss(loss, mask) if memory.labels is not None and not self.increments.leaks(trial.labels) else loss,
            arch=self.arch,
            info=plan.dataset.info,
            scored_on=scored_on,
            looks=_plugins.load("protocols", plan.protocol, "PROTOCOL").test_evaluations,
            seed=plan.config.seed,
            path=("student", self.arch, "incremental", self.steps, order, step, seed),
            device=plan.clock.device,
            on_event=lambda event: plan.on_event(dataclasses.replace(event, phase=name)),
            watch=watch,
        )
        logits = predict(scored.net, scored_on.pixels, space=memory.distilled.space)
        return Outcome(
            {
                "accuracy": scored.accuracies[-1],
                "best": max(scored.accuracies),
                "seen_only": seen_accuracy(logits, scored_on.labels, mask),
                "images": len(memory.distilled.labels),
                "batch": recipe.batch,
                "samples": scored.samples,
            }
        )


def _point(increments: Increments, steps: int, step: int, students: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One step over all runs."""
    return {
        "classes": len(increments.seen(steps, 0, step)),
        "images": sorted({student["images"] for student in students}),
        "batch": sorted({student["batch"] for student in students}),
        "samples_seen": sorted({student["samples"] for student in students}),
        "accuracy": summarise([student["accuracy"] for student in students]),
        "seen_only": summarise([student["seen_only"] for student in students]),
    }


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
