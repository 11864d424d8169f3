"""The training of one expert: what does not change from net to net, its kept checkpoints and its trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .. import seeding
from ..augment._augment import build as build_augmentation
from ..bundle import NewSection
from ..config import TrainTeacherConfig
from ..data._dataset import Dataset
from ..events import Event, OnEvent
from ..losses.ce import CrossEntropy
from ..nets._net import Net, build
from ..options import as_dict
from ..space import Space
from ..teachers import Checkpoint, checkpoint_section
from ..training import Recipe, Sampler, TrainState, accuracy, train
from ._experts import Recorder, Store, course
from ._ledger import Ledger, Running
from ._stage import Clock, redact
from ._weights import Weights

__all__ = ["TeacherPlan", "numbers", "shape", "train_expert"]


@dataclass(frozen=True)
class TeacherPlan:
    """Everything that does not change from expert to expert."""

    config: TrainTeacherConfig
    recipe: Recipe
    kept: frozenset[int]
    """Epochs whose checkpoints are kept."""
    recorded: range
    """Epochs that trajectories record."""
    arch: str
    dataset: Dataset
    space: Space
    subset: Callable[[int], Tensor] | None
    """Indices into the training split that an epoch, from 0, sees; None for all of it."""
    clock: Clock
    on_event: OnEvent
    weights: Weights | None
    """What every net starts from; None for its own first values."""

    def own(self) -> dict[str, Any]:
        """Options as the history says them: without paths, and with what `auto` came to."""
        weights = None if self.weights is None else self.weights.describe()
        named = {"data": redact(self.config.data), "arch": self.arch, "keep": sorted(self.kept)}
        return as_dict(self.config) | named | {"weights": weights}


def numbers(config: TrainTeacherConfig) -> range:
    """Of the nets to train: a net is a function of the seed and its number, whichever process trains it."""
    count = 1 if config.experts is None else config.experts
    return range(config.first_expert, config.first_expert + count)


def shape(dataset: Dataset) -> dict[str, int]:
    """What a net is built for."""
    info = dataset.info
    return {"channels": info.channels, "size": info.height, "classes": len(info.classes)}


def train_expert(plan: TeacherPlan, number: int, sampler: Sampler, store: Store, ledger: Ledger) -> list[NewSection]:
    """The sections of one net: its kept checkpoints, and its trajectory if one is recorded."""
    config, info = plan.config, plan.dataset.info
    draws = seeding.generator(config.seed, "teacher", number, "init")
    net = build(plan.arch, **shape(plan.dataset), generator=draws)
    if plan.weights is not None:
        plan.weights.put(net)
    net = net.to(plan.clock.device)
    earlier = ledger.running if ledger.running and ledger.running.number == number else None
    checkpoints: list[NewSection] = [*earlier.checkpoints] if earlier else []
    recorder = earlier.recorder(plan.recorded) if earlier else Recorder(plan.recorded)
    last: dict[str, float | None] = {}

    def keep(epoch: int) -> None:
        recorder.take(net, epoch)
        if epoch in plan.kept or epoch == plan.recipe.rounds:
            scores = _score(plan, net, number, epoch)
            last.update(scores)
            if epoch in plan.kept:
                checkpoint = Checkpoint(f"teacher.{number}.{epoch}", number, epoch, plan.arch, scores)
                checkpoints.append(checkpoint_section(net, checkpoint, seed=config.seed))

    def after(state: TrainState) -> None:
        keep(state.epoch)
        if state.epoch < plan.recipe.rounds:  # then the expert is finished, which is told by the caller
            trajectory = (tuple(recorder.rows), tuple(recorder.buffers))
            ledger.trained(Running(number, state.copy(), tuple(checkpoints), *trajectory))

    if earlier is None:
        keep(0)
    train(
        net,
        sampler,
        plan.recipe,
        CrossEntropy(),
        build_augmentation(plan.recipe.augment, flip=info.flip),
        seed=config.seed,
        seed_path=("teacher", number),
        on_event=_named(plan.on_event, f"teacher {number - config.first_expert + 1} of {len(numbers(config))}"),
        on_epoch=after,
        start=earlier.state if earlier else None,
    )
    if not plan.recorded:
        return checkpoints
    said = _said(last) or "not scored"
    plan.on_event(Event(phase="expert", message=f"expert {number}: {said} after {course(plan.recipe)}"))
    trajectory = store.section(
        number,
        recorder,
        arch=plan.arch,
        seed=config.seed,
        recipe=as_dict(plan.recipe),
        curriculum=config.curriculum,
        accuracy=last,
    )
    return [*checkpoints, trajectory]


def _score(plan: TeacherPlan, net: Net, number: int, epoch: int) -> dict[str, float | None]:
    """Accuracies of a net by split, None where there are no images."""
    scores: dict[str, float | None] = {}
    for name, split in (("validation", plan.dataset.validation), ("test", plan.dataset.test)):
        scores[name] = accuracy(net, split.pixels, split.labels, space=plan.space) if len(split) else None
    plan.on_event(Event(phase="checkpoint", message=f"net {number} epoch {epoch}: {_said(scores)}"))
    return scores


def _said(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in scores.items() if value is not None)


def _named(on_event: OnEvent, phase: str) -> Callable[[Event], None]:
    return lambda event: on_event(replace(event, phase=phase))
