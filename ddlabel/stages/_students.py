"""Training one student and reading its test accuracy at the looks that its protocol takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .. import seeding
from ..augment._augment import build as build_augmentation
from ..data._dataset import DatasetInfo, Split
from ..events import OnEvent
from ..nets._net import Net, build
from ..privileged._student import TappedStudent
from ..students import StudentData, make_sampler
from ..training import Recipe, Respond, TrainState, accuracy, train
from ._use import Use

__all__ = ["Scored", "train_student"]


@dataclass(frozen=True)
class Scored:
    """What a student came to."""

    accuracies: list[float]
    """Fractions at the protocol's looks, the last epoch's last."""
    samples: int
    """Samples seen in training, I x B."""
    net: Net
    """After its last epoch, in eval mode, without adapter."""
    features: Mapping[str, Any] | None = None
    """Of a student of feature or attention labels: its adapter, and the final error of its features."""


def train_student(
    data: StudentData,
    recipe: Recipe,
    loss: Any,
    *,
    arch: str,
    info: DatasetInfo,
    scored_on: Split,
    looks: int,
    seed: int,
    path: tuple[str | int, ...],
    device: torch.device,
    on_event: OnEvent,
    use: Use | None = None,
    respond: Respond | None = None,
) -> Scored:
    """Train one fresh student.

    Args:
        data: images and labels.
        recipe, loss: how it is trained.
        arch: canonical name of its net.
        info: channels, side, classes and mirroring of the data.
        scored_on: images and classes that it is scored on.
        looks: how often it is scored, evenly spaced, the last time after the last epoch.
        seed, path: name its streams.
        device: where.
        on_event: told of every step.
        use: how it learns from the feature or attention labels in the data; what is scored is the net without adapter,
            and its initial values and the order of its samples are those of a student without such labels.
        respond: acts last on every augmented batch: a live teacher.
    """
    estimator = getattr(loss, "estimator", "views")
    net = build(
        arch,
        channels=info.channels,
        size=info.height,
        classes=len(info.classes),
        generator=seeding.generator(seed, *path, "init"),
    ).to(device)
    tapped: TappedStudent | None = None
    if use is not None and data.privileged is not None:
        tapped = use.student(net, arch, info, seeding.generator(seed, *path, "adapter")).to(device)
        loss = use.loss(loss, tapped, device)
    epochs = frozenset(recipe.epochs * index // looks for index in range(1, looks))
    scores: list[float] = []
    seen = 0

    def score() -> None:
        scores.append(accuracy(net, scored_on.pixels, scored_on.labels, space=data.distilled.space))

    def look(state: TrainState) -> None:
        if state.epoch in epochs:
            score()

    def count(batches: Any) -> Any:
        nonlocal seen
        for images, targets in batches:
            seen += len(images)
            yield images, targets

    sampler = make_sampler(
        data,
        batch=recipe.batch,
        estimator=estimator,
        seed=seeding.stream_seed(seed, *path),
    )
    counted: Callable[..., Any] = lambda epoch, generator: count(sampler(epoch, generator))  # noqa: E731
    train(
        net if tapped is None else tapped,
        counted,
        recipe,
        loss,
        build_augmentation(recipe.augment, flip=info.flip),
        seed=seed,
        seed_path=path,
        on_event=on_event,
        on_epoch=look,
        respond=respond,
    )
    score()
    return Scored(scores, seen, net, None if tapped is None or use is None else _describe(tapped, use, data))


def _describe(student: TappedStudent, use: Use, data: StudentData) -> dict[str, Any]:
    if data.privileged is None:
        raise ValueError("no labels that features could be compared with")
    adapter = student.adapter
    return {
        "layer": student.layer,
        "adapter": adapter.kind,
        "adapter_parameters": adapter.parameter_count,
        "adapter_norm": adapter.norm,
        "mse": use.error(student, data.privileged, data.distilled.images),
    }
