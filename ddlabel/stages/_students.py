"""Training one student and reading its test accuracy at the looks that its protocol takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, nn

from .. import seeding
from ..augment._augment import build as build_augmentation
from ..data._dataset import DatasetInfo, Split
from ..events import OnEvent
from ..nets._net import Net, build
from ..privileged._student import TappedStudent
from ..space import Space
from ..students import StudentData, make_sampler
from ..training import Batch, Encoder, Recipe, Respond, Sampler, TrainState, accuracy, minibatches, train
from ._use import Use

__all__ = ["Moment", "Scored", "Watch", "train_real_student", "train_student"]


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


@dataclass(frozen=True)
class Moment:
    """A student after some of its epochs; nothing in it changes any more."""

    state: TrainState
    scores: tuple[float, ...]
    """At the looks so far."""
    samples: int
    """Seen so far."""


@dataclass(frozen=True)
class Watch:
    """Where a student begins, and whom it tells of its epochs."""

    start: Moment | None = None
    """Where an earlier run of the same student was; None begins anew."""
    offer: Callable[[Callable[[], Moment]], None] = field(default=lambda _take: None)
    """Given, after each epoch but the last, what takes the moment; only to be called at once, for it costs a copy."""


@dataclass(frozen=True, kw_only=True)
class _Course:
    """How a net is trained and looked at, whatever it learns from."""

    recipe: Recipe
    scored_on: Split
    space: Space
    looks: int
    flip: bool
    seed: int
    path: tuple[str | int, ...]
    on_event: OnEvent
    watch: Watch

    def run(
        self, model: nn.Module, net: Net, sampler: Sampler, loss: Any, respond: Respond | None = None
    ) -> tuple[list[float], int]:
        """Train a model; accuracies of the net in it at all looks, and samples seen."""
        start, rounds = self.watch.start, self.recipe.rounds
        epochs = frozenset(self.recipe.epochs * index // self.looks for index in range(1, self.looks))
        scores: list[float] = list(start.scores) if start else []
        seen = start.samples if start else 0

        def score() -> None:
            scores.append(accuracy(net, self.scored_on.pixels, self.scored_on.labels, space=self.space))

        def counted(epoch: int, generator: Generator) -> Iterator[Batch]:
            nonlocal seen
            for images, targets in sampler(epoch, generator):
                seen += len(images)
                yield images, targets

        def after(state: TrainState) -> None:
            if state.epoch in epochs:
                score()
            if state.epoch < rounds:
                self.watch.offer(lambda: Moment(state.copy(), tuple(scores), seen))

        train(
            model,
            counted,
            self.recipe,
            loss,
            build_augmentation(self.recipe.augment, flip=self.flip),
            seed=self.seed,
            seed_path=self.path,
            on_event=self.on_event,
            on_epoch=after,
            start=start.state if start else None,
            respond=respond,
        )
        score()
        return scores, seen


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
    watch: Watch | None = None,
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
        watch: where an earlier run of it was, and who is told of its epochs.
    """
    estimator = getattr(loss, "estimator", "views")
    net = _fresh(arch, info, seed, path, device)
    tapped: TappedStudent | None = None
    if use is not None and data.privileged is not None:
        tapped = use.student(net, arch, info, seeding.generator(seed, *path, "adapter")).to(device)
        loss = use.loss(loss, tapped, device)
    sampler = make_sampler(data, batch=recipe.batch, estimator=estimator, seed=seeding.stream_seed(seed, *path))
    course = _Course(
        recipe=recipe,
        scored_on=scored_on,
        space=data.distilled.space,
        looks=looks,
        flip=info.flip,
        seed=seed,
        path=path,
        on_event=on_event,
        watch=watch or Watch(),
    )
    scores, seen = course.run(net if tapped is None else tapped, net, sampler, loss, respond)
    return Scored(scores, seen, net, None if tapped is None or use is None else _describe(tapped, use, data))


def train_real_student(
    split: Split,
    recipe: Recipe,
    loss: Any,
    *,
    encode: Encoder,
    space: Space,
    arch: str,
    info: DatasetInfo,
    scored_on: Split,
    seed: int,
    path: tuple[str | int, ...],
    device: torch.device,
    on_event: OnEvent,
    watch: Watch,
) -> Scored:
    """Train one fresh student on real images, which exist as pixels alone, and score it once.

    Args:
        split: the images and their hard labels.
        encode: the encoder of these pixels.
        space: of the net's input.
        recipe, loss, arch, info, scored_on, seed, path, device, on_event, watch: as of `train_student`.
    """
    net = _fresh(arch, info, seed, path, device)
    sampler = minibatches(split.pixels, split.labels, batch=recipe.batch, space=space, device=device, encode=encode)
    course = _Course(
        recipe=recipe,
        scored_on=scored_on,
        space=space,
        looks=1,
        flip=info.flip,
        seed=seed,
        path=path,
        on_event=on_event,
        watch=watch,
    )
    scores, seen = course.run(net, net, sampler, loss)
    return Scored(scores, seen, net)


def _fresh(arch: str, info: DatasetInfo, seed: int, path: tuple[str | int, ...], device: torch.device) -> Net:
    draws = seeding.generator(seed, *path, "init")
    net = build(arch, channels=info.channels, size=info.height, classes=len(info.classes), generator=draws)
    return net.to(device)


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
