"""Stage `train-teacher`: nets trained on real data, chosen epochs kept with their buffers and accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import seeding
from ..augment._augment import build as build_augmentation
from ..bundle import Bundle, NewSection, StageRecord
from ..config import TrainTeacherConfig
from ..data._dataset import Dataset, load
from ..events import Event, OnEvent, ignore
from ..losses.ce import CrossEntropy
from ..nets._flops import TRAINING_STEP, forward_flops
from ..nets._net import Net, build, on_meta
from ..options import as_dict, check
from ..preprocess import describe_space, space_sections
from ..space import Space
from ..teachers import Checkpoint, checkpoint_section
from ..tensors import RawTensor
from ..training import Recipe, Sampler, TrainState, accuracy, encoded_bytes, minibatches, train
from ._difficulty import Prepared, Request, prepare, read_request
from ._estimate import check_training
from ._experts import PRESETS, Recorder, Store, choose_epochs, course
from ._ledger import Ledger, Running
from ._partial import Progress, Saved, Task
from ._scores import scoring_recipe
from ._stage import Clock, computing, fit_space, redact
from ._weights import Weights, check_untrained, read_weights

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
    progress: Progress | None = None,
) -> Bundle:
    """Train `config.experts` nets and return a teacher bundle.

    Args:
        config: what to train, on which data.
        settings: overrides of `Recipe` fields (`--set`), as texts or typed values.
        on_event: told of progress; every call is a safe point for an interrupt.
        progress: where states go, and one to continue from; the result has the same bits either way.

    Returns:
        A bundle of kind `teacher`: one section per net and kept epoch, and one per net with its trajectory when
        experts were asked for. It is whole on its own: trajectories too large for memory wait in an unnamed file that
        goes with the last bundle that holds them.

    Raises:
        UsageError: impossible options, or a state of other ones.
        BundleError: a damaged state, or one of other data or versions.
        DataError: unusable data.
        DivergedError: a loss became non-finite.
        ResourceError: more memory or disk is needed than is free.
    """
    check(config)
    check_untrained(config, settings or {})
    request = read_request(config, _defaults(config), settings or {})
    recipe = request.recipe if config.epochs else replace(request.recipe, epochs=0)
    request = replace(request, recipe=recipe)
    kept, recorded = choose_epochs(config, recipe.rounds)
    weights = None if config.weights is None else read_weights(config.weights)
    with computing(config.device, config.threads) as clock:
        dataset = load(config.data, size=config.size, validation=config.validation, on_event=on_event)
        arch = request.arch(config, dataset.info.height)
        space = fit_space(dataset, config.space, on_event)
        plan = _Plan(config, recipe, kept, recorded, arch, dataset, space, None, clock, on_event, weights)
        progress = progress or Progress()
        blank = on_meta(arch, **_shape(dataset))
        if weights is not None:
            weights.check(blank, arch)
            on_event(Event(phase="weights", message=f"starting from '{weights.name}', sha256 {weights.sha256[:12]}"))
        check_training(
            blank,
            _batch_shape(plan),
            clock.device,
            on_event,
            experts=len(_numbers(config)) if recipe.rounds else 0,
            trajectories=_trajectory_bytes(plan),
            disk=progress.free_bytes,
            data=dataset.train.pixels.nbytes,
            encoded=encoded_bytes(dataset.train.pixels, space, clock.device),
            scoring=_scoring(plan, request),
        )
        known = None if request.score_epochs else prepare(request, config, dataset, space, clock.device, on_event)
        task, saved = progress.begin(_task(plan, request, known), on_event)
        ledger = _ledger(plan, request, progress, saved)
        difficulty = known or prepare(
            request, config, dataset, space, clock.device, on_event, before=ledger.nets, on_net=ledger.scored
        )
        plan = replace(plan, subset=difficulty.subset, clock=task.clock)
        with Store(_trajectory_bytes(plan), hold=progress.keeps) as store:
            sampler = _sampler(plan)
            made = [*difficulty.sections]
            for number in _numbers(config):
                finished = ledger.sections_of(number)
                if finished is None:
                    finished = tuple(_train_expert(plan, number, sampler, store, ledger))
                    ledger.finish(number, finished)
                made += finished
            record = _record(plan, difficulty, made)
            data = dataset.manifest() | {"space": describe_space(space)}
            bundle = Bundle.create("teacher", data, record, [*space_sections(space), *made])
            store.release()
            return bundle


@dataclass(frozen=True)
class _Plan:
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


def _task(plan: _Plan, request: Request, known: Prepared | None) -> Task:
    """What is about to be made; `known` are scores that were read rather than computed."""
    config, dataset = plan.config, plan.dataset
    scores = () if known is None else known.sections
    return Task(
        clock=plan.clock,
        stage="train-teacher",
        config=plan.own() | request.describe(config),
        seed=config.seed,
        inputs=() if known is None else known.inputs,
        data=dataset.manifest() | {"space": describe_space(plan.space)},
        splits={"training images": dataset.train, "held-out images": dataset.validation, "test images": dataset.test},
        digests={section.name: RawTensor.of(section.tensors[section.name]).sha256 for section in scores},
        unit="epochs",
    )


def _ledger(plan: _Plan, request: Request, progress: Progress, saved: Saved | None) -> Ledger:
    """What is done, of the nets that score and those that are experts."""
    rounds, scoring = plan.recipe.rounds, request.score_epochs
    total = scoring * request.options.score_nets + rounds * len(_numbers(plan.config))
    return Ledger(progress, saved, score_epochs=scoring, rounds=rounds, total=total)


def _numbers(config: TrainTeacherConfig) -> range:
    """Of the nets to train: a net is a function of the seed and its number, whichever process trains it."""
    count = 1 if config.experts is None else config.experts
    return range(config.first_expert, config.first_expert + count)


def _record(plan: _Plan, difficulty: Prepared, made: Sequence[NewSection]) -> StageRecord:
    """The history entry."""
    return plan.clock.record(
        "train-teacher",
        plan.own() | {"recipe": as_dict(plan.recipe)} | difficulty.record,
        seed=plan.config.seed,
        inputs=difficulty.inputs,
        metrics={
            "checkpoints": _summaries(made, "teacher"),
            "flops": _flops(plan) | ({"scores": difficulty.flops} if difficulty.flops else {}),
        },
    )


def _sampler(plan: _Plan) -> Sampler:
    """The real images of every epoch, the same for every expert but for the order."""
    split = plan.dataset.train
    return minibatches(
        split.pixels,
        split.labels,
        batch=plan.recipe.batch,
        space=plan.space,
        device=plan.clock.device,
        subset=plan.subset,
    )


def _flops(plan: _Plan) -> dict[str, int]:
    """Of one forward pass of one image, and of the whole training, by LADD's rule; GSAM passes twice."""
    subset = plan.subset
    forward = forward_flops(plan.arch, **_shape(plan.dataset))
    seen = len(plan.dataset.train) * plan.recipe.rounds
    if subset is not None:
        seen = sum(len(subset(epoch)) for epoch in range(plan.recipe.rounds))
    passes = 2 if plan.recipe.optimizer == "gsam" else 1
    return {"forward": forward, "training": TRAINING_STEP * forward * seen * passes * len(_numbers(plan.config))}


def _shape(dataset: Dataset) -> dict[str, int]:
    """What a net is built for."""
    info = dataset.info
    return {"channels": info.channels, "size": info.height, "classes": len(info.classes)}


def _scoring(plan: _Plan, request: Request) -> tuple[Net, tuple[int, ...]] | None:
    """A net that computes scores, on the meta device, and the shape of its batches; None when none does."""
    if not request.score_epochs:
        return None
    arch = request.options.arch(plan.dataset.info.height)
    batch = min(scoring_recipe(request.options).batch, len(plan.dataset.train))
    return on_meta(arch, **_shape(plan.dataset)), (batch, *plan.dataset.train.pixels.shape[1:])


def _batch_shape(plan: _Plan) -> tuple[int, ...]:
    return min(plan.recipe.batch, len(plan.dataset.train)), *plan.dataset.train.pixels.shape[1:]


def _trajectory_bytes(plan: _Plan) -> int:
    """Of all trajectories of the run, without buffers."""
    net = on_meta(plan.arch, **_shape(plan.dataset))
    row = sum(parameter.numel() for parameter in net.parameters()) * torch.float32.itemsize
    return row * len(plan.recorded) * len(_numbers(plan.config))


def _defaults(config: TrainTeacherConfig) -> dict[str, Any]:
    """Recipe fields before `--set`."""
    return {**as_dict(default_recipe()), "epochs": max(1, config.epochs), **PRESETS[config.optimizer]}


def _train_expert(plan: _Plan, number: int, sampler: Sampler, store: Store, ledger: Ledger) -> list[NewSection]:
    """The sections of one net: its kept checkpoints, and its trajectory if one is recorded."""
    config, info = plan.config, plan.dataset.info
    draws = seeding.generator(config.seed, "teacher", number, "init")
    net = build(plan.arch, **_shape(plan.dataset), generator=draws)
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
        on_event=_named(plan.on_event, f"teacher {number - config.first_expert + 1} of {len(_numbers(config))}"),
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


def _score(plan: _Plan, net: Net, number: int, epoch: int) -> dict[str, float | None]:
    """Accuracies of a net by split, None where there are no images."""
    scores: dict[str, float | None] = {}
    for name, split in (("validation", plan.dataset.validation), ("test", plan.dataset.test)):
        scores[name] = accuracy(net, split.pixels, split.labels, space=plan.space) if len(split) else None
    plan.on_event(Event(phase="checkpoint", message=f"net {number} epoch {epoch}: {_said(scores)}"))
    return scores


def _said(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in scores.items() if value is not None)


def _summaries(sections: Sequence[NewSection], kind: str) -> list[dict[str, Any]]:
    return [
        {key: section.parameters[key] for key in ("member", "epoch", "accuracy")}
        for section in sections
        if section.kind == kind
    ]


def _named(on_event: OnEvent, phase: str) -> Callable[[Event], None]:
    return lambda event: on_event(replace(event, phase=phase))
