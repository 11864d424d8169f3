"""Stage `train-teacher`: nets trained on real data, chosen epochs kept with their buffers and accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import seeding
from ..augment._augment import build as build_augmentation
from ..bundle import Bundle, NewSection
from ..config import TrainTeacherConfig
from ..data._dataset import Dataset, load
from ..errors import UsageError
from ..events import Event, OnEvent, ignore
from ..losses.ce import CrossEntropy
from ..nets._flops import TRAINING_STEP, forward_flops
from ..nets._net import Net, build, canonical, default_arch
from ..options import as_dict, build_many, check
from ..preprocess import describe_space, space_sections
from ..space import Space
from ..teachers import Checkpoint, checkpoint_section
from ..training import Recipe, TrainState, accuracy, minibatches, train
from ._stage import Clock, computing, fit_space, redact

__all__ = ["default_recipe", "run"]


def default_recipe() -> Recipe:
    """The labeler of LADD and expert of MTT: SGD 0.01 without momentum, decay or schedule, batch 256, one-op DSA."""
    return Recipe(
        optimizer="sgd",
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        epochs=50,
        batch=256,
        augment="dsa",
    )


def run(
    config: TrainTeacherConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    on_event: OnEvent = ignore,
) -> Bundle:
    """Train `config.experts` nets and return a teacher bundle.

    Args:
        config: what to train, on which data.
        settings: overrides of `Recipe` fields (`--set`), as texts or typed values.
        on_event: told of progress; every call is a safe point for an interrupt.

    Returns:
        A bundle of kind `teacher`, one section per member and kept epoch.

    Raises:
        UsageError: impossible options.
        DataError: unusable data.
        DivergedError: a loss became non-finite.
    """
    check(config)
    recipe = _recipe(config, settings or {})
    kept = _kept_epochs(config)
    with computing(config.device, config.threads) as clock:
        dataset = load(config.data, size=config.size, validation=config.validation, on_event=on_event)
        arch = canonical(config.arch or default_arch(dataset.info.height))
        space = fit_space(dataset, config.space, on_event)
        plan = _Plan(config, recipe, kept, arch, dataset, space, clock, on_event)
        checkpoints = [section for member in range(config.experts or 1) for section in _train_member(plan, member)]
        record = clock.record(
            "train-teacher",
            as_dict(config)
            | {"data": redact(config.data), "arch": arch, "keep": sorted(kept), "recipe": as_dict(recipe)},
            seed=config.seed,
            metrics={"checkpoints": [_summary(section) for section in checkpoints], "flops": _flops(plan)},
        )
        sections = [*space_sections(space), *checkpoints]
        return Bundle.create("teacher", dataset.manifest() | {"space": describe_space(space)}, record, sections)


@dataclass(frozen=True)
class _Plan:
    """Everything that does not change from member to member."""

    config: TrainTeacherConfig
    recipe: Recipe
    kept: frozenset[int]
    arch: str
    dataset: Dataset
    space: Space
    clock: Clock
    on_event: OnEvent


def _flops(plan: _Plan) -> dict[str, int]:
    """Of one forward pass of one image, and of the whole training, by LADD's rule."""
    info = plan.dataset.info
    forward = forward_flops(plan.arch, channels=info.channels, size=info.height, classes=len(info.classes))
    samples = plan.recipe.rounds * len(plan.dataset.train) * (plan.config.experts or 1)
    return {"forward": forward, "training": TRAINING_STEP * forward * samples}


def _recipe(config: TrainTeacherConfig, settings: Mapping[str, Any]) -> Recipe:
    (changed,) = build_many([Recipe], {**as_dict(default_recipe()), "epochs": config.epochs, **settings})
    if not isinstance(changed, Recipe):
        raise TypeError("Recipe expected")
    return changed


def _kept_epochs(config: TrainTeacherConfig) -> frozenset[int]:
    beyond = [epoch for epoch in config.keep if epoch > config.epochs]
    if beyond:
        raise UsageError(
            f"option 'keep' names epoch {beyond[0]}, expected epochs from 0 to {config.epochs}",
            field="keep",
            hint="raise --epochs or drop it from --keep",
        )
    return frozenset(config.keep or (config.epochs,))


def _train_member(plan: _Plan, member: int) -> list[NewSection]:
    config, info = plan.config, plan.dataset.info
    net = build(
        plan.arch,
        channels=info.channels,
        size=info.height,
        classes=len(info.classes),
        generator=seeding.generator(config.seed, "teacher", member, "init"),
    ).to(plan.clock.device)
    sections: list[NewSection] = []

    def keep(state: TrainState) -> None:
        if state.epoch in plan.kept:
            sections.append(_checkpoint(plan, net, member, state.epoch))

    if 0 in plan.kept:
        sections.append(_checkpoint(plan, net, member, 0))
    split = plan.dataset.train
    train(
        net,
        minibatches(split.pixels, split.labels, batch=plan.recipe.batch, space=plan.space, device=plan.clock.device),
        plan.recipe,
        CrossEntropy(),
        build_augmentation(plan.recipe.augment, flip=info.flip),
        seed=config.seed,
        seed_path=("teacher", member),
        on_event=_named(plan.on_event, f"teacher {member + 1} of {config.experts or 1}"),
        on_epoch=keep,
    )
    return sections


def _checkpoint(plan: _Plan, net: Net, member: int, epoch: int) -> NewSection:
    scores: dict[str, float | None] = {}
    for name, split in (("validation", plan.dataset.validation), ("test", plan.dataset.test)):
        scores[name] = accuracy(net, split.pixels, split.labels, space=plan.space) if len(split) else None
    said = ", ".join(f"{name} {value:.1%}" for name, value in scores.items() if value is not None)
    plan.on_event(Event(phase="checkpoint", message=f"net {member} epoch {epoch}: {said}"))
    checkpoint = Checkpoint(f"teacher.{member}.{epoch}", member, epoch, plan.arch, scores)
    return checkpoint_section(net, checkpoint, seed=plan.config.seed)


def _summary(section: NewSection) -> dict[str, Any]:
    parameters = section.parameters
    return {key: parameters[key] for key in ("member", "epoch", "accuracy")}


def _named(on_event: OnEvent, phase: str) -> Callable[[Event], None]:
    return lambda event: on_event(replace(event, phase=phase))
