"""Which checkpoints of the teachers label: by epoch, by the budget of images, or by what students make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..config import AugmentLabelsConfig
from ..data._dataset import Dataset
from ..distilled import StoredSet
from ..errors import BundleError, UsageError
from ..events import Event, OnEvent
from ..labels._labels import read_labels
from ..preprocess import data_of
from ..protocols._protocol import Student
from ..scores import summarise
from ..students import StudentData
from ..teachers import Checkpoint, Teacher
from ._stage import Clock, load_like
from ._students import train_student
from ._trials import AUGMENTED, SUITS

__all__ = ["GUIDED", "Chosen", "choose_checkpoints"]

GUIDED = "rded"
"""`--checkpoint rded`."""

PROTOCOL = "dm"
"""Training protocol of the students that try labels out."""
STUDENTS = 3
"""Students for each epoch; the same ones for every epoch, so that only the labels differ."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The checkpoints that label."""

    sections: tuple[str, ...]
    """For each teacher its sections, joined by commas."""
    metrics: dict[str, Any]
    """How the choice was made; empty when the user made it."""


def choose_checkpoints(
    bundle: Bundle,
    config: AugmentLabelsConfig,
    images: StoredSet,
    teachers: Sequence[Bundle],
    label: Callable[[str], Bundle],
    clock: Clock,
    on_event: OnEvent,
) -> Chosen:
    """Resolve `config.checkpoint`.

    Args:
        bundle: the distilled bundle.
        config: an epoch, `last`, `all`, `ipc` (`Teacher.epoch_for`), `rded` (`Teacher.guided_epoch`), or `auto`: the
            epoch whose labels make the best students on the held-out part of the training data, by their mean; the
            earlier one of equals.
        images: what the bundle holds.
        teachers: their bundles.
        label: gives the bundle labelled by the checkpoints of one epoch, for `auto`.
        clock, on_event: device and listener.

    Raises:
        UsageError: no such checkpoint; `auto` without data or without a held-out part.
    """
    loaded = [Teacher(teacher) for teacher in teachers]
    if config.checkpoint in {"ipc", GUIDED}:
        guided = config.checkpoint == GUIDED
        rules = [teacher.guided_epoch if guided else teacher.epoch_for for teacher in loaded]
        epochs = [rule(images.ipc) for rule in rules]
        picked = [teacher.select(str(epoch)) for teacher, epoch in zip(loaded, epochs, strict=True)]
        return Chosen(_sections(picked), {f"checkpoint_by_{config.checkpoint}": epochs})
    if config.checkpoint == "auto":
        scores = _try_epochs(bundle, config, images, loaded, label, clock, on_event)
        epoch = max(scores, key=lambda tried: (scores[tried]["mean"], -tried))
        table = {str(tried): score for tried, score in scores.items()}
        return Chosen(_sections([teacher.select(str(epoch)) for teacher in loaded]), {"validation_accuracy": table})
    return Chosen(_sections([teacher.select(config.checkpoint) for teacher in loaded]), {})


def _sections(picked: Sequence[Sequence[Checkpoint]]) -> tuple[str, ...]:
    return tuple(",".join(checkpoint.section for checkpoint in checkpoints) for checkpoints in picked)


def _try_epochs(
    bundle: Bundle,
    config: AugmentLabelsConfig,
    images: StoredSet,
    teachers: Sequence[Teacher],
    label: Callable[[str], Bundle],
    clock: Clock,
    on_event: OnEvent,
) -> dict[int, dict[str, Any]]:
    """Held-out accuracies of a few students on the labels of every epoch that all teachers kept."""
    if config.data is None:
        raise UsageError("--checkpoint auto trains students, expected --data", field="data")
    kept = [{checkpoint.epoch for checkpoint in teacher.checkpoints} for teacher in teachers]
    epochs = sorted(set.intersection(*kept) - {0})
    if not epochs:
        raise UsageError("the teachers kept no epoch in common", field="checkpoint", hint="name 'last' or 'all'")
    dataset = load_like(bundle, config.data, on_event)
    _check_held_out(bundle, teachers, dataset)
    if not len(dataset.validation):
        raise UsageError(
            "no part of the training data was held out, and test data choose nothing",
            field="checkpoint",
            hint="distil with --validation above 0, or name an epoch",
        )
    arch, distilled = teachers[0].checkpoints[0].arch, images.decoded()
    protocol = _plugins.load("protocols", PROTOCOL, "PROTOCOL")
    student = Student(
        arch=arch,
        stored_images=len(distilled.labels),
        learned_lr=None,
        classes=len(distilled.classes),
        side=dataset.info.height,
    )
    recipe = dataclasses.replace(protocol.recipe(student), epochs=config.auto_epochs)
    if config.kind in AUGMENTED:
        recipe = dataclasses.replace(recipe, augment="none")
    loss = _plugins.load("losses", SUITS.get(config.kind, "softce"), "LOSS")()
    scores = {}
    for epoch in epochs:
        labels = read_labels(label(str(epoch)), config.kind)
        scored = [
            train_student(
                StudentData(distilled, labels),
                recipe,
                loss,
                arch=arch,
                info=dataset.info,
                scored_on=dataset.validation,
                looks=1,
                seed=config.seed,
                path=("checkpoint", index),
                device=clock.device,
                on_event=on_event,
            ).accuracies[-1]
            for index in range(STUDENTS)
        ]
        scores[epoch] = summarise(scored)
        message = f"labels of epoch {epoch}: held-out accuracy {scores[epoch]['mean']:.2%}"
        on_event(Event(phase="choosing a checkpoint", message=message))
    return scores


def _check_held_out(bundle: Bundle, teachers: Sequence[Teacher], dataset: Dataset) -> None:
    """The held-out images were seen by no one: neither by the distillation nor by a teacher, and none is a test image.

    Raises:
        BundleError: other training data, or another part of them held out.
    """
    for made in (bundle, *(teacher.bundle for teacher in teachers)):
        record = data_of(made)
        sides = {
            "training data": (dataset.fingerprint, record["fingerprint"]),
            "held-out share": (dataset.validation_fraction, record["validation"]["fraction"]),
        }
        for field, (ours, theirs) in sides.items():
            if ours != theirs:
                raise BundleError(
                    f"{made.name} was made with {field} {theirs}, --data has {ours}",
                    field=field,
                    hint="use the data and the --validation that bundle and teachers were made with",
                )
