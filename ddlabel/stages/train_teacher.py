"""Stage `train-teacher`: nets trained on real data, chosen epochs kept with their buffers and accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..bundle import Bundle, NewSection, StageRecord
from ..config import TrainTeacherConfig
from ..data._dataset import load
from ..events import Event, OnEvent, ignore
from ..nets._flops import TRAINING_STEP, forward_flops
from ..nets._net import Net, on_meta
from ..options import as_dict, check
from ..preprocess import describe_space, space_sections
from ..team import ALONE, Team
from ..tensors import RawTensor
from ..training import Recipe, Sampler, encoded_bytes, minibatches
from ._difficulty import Prepared, Request, prepare, read_request
from ._estimate import check_training
from ._expert_training import TeacherPlan, numbers, shape, train_expert
from ._experts import PRESETS, Store, choose_epochs
from ._ledger import Ledger
from ._partial import Progress, Saved, Task
from ._scores import scoring_recipe
from ._sharing import hand_over, take_over
from ._stage import computing, fit_space
from ._weights import check_untrained, read_weights

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
    team: Team = ALONE,
) -> Bundle:
    """Train `config.experts` nets and return a teacher bundle.

    Args:
        config: what to train, on which data.
        settings: overrides of `Recipe` fields (`--set`), as texts or typed values.
        on_event: told of progress; every call is a safe point for an interrupt.
        progress: where states go, and one to continue from; the result has the same bits either way.
        team: processes that share the nets, those that score and those that are experts; all but the first return a
            bundle of kind `partial` with their own share.

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
    request = read_options(config, settings or {})
    recipe = request.recipe if config.epochs else replace(request.recipe, epochs=0)
    request = replace(request, recipe=recipe)
    kept, recorded = choose_epochs(config, recipe.rounds)
    weights = None if config.weights is None else read_weights(config.weights)
    with computing(config.device, config.threads, team) as clock:
        dataset = load(config.data, size=config.size, validation=config.validation, on_event=on_event)
        arch = request.arch(config, dataset.info.height)
        space = fit_space(dataset, config.space, on_event)
        ours = team.mine(numbers(config))
        plan = TeacherPlan(config, recipe, kept, recorded, arch, dataset, space, None, clock, on_event, weights)
        progress, held = progress or Progress(), numbers(config) if team.leads else ours
        blank = on_meta(arch, **shape(dataset))
        if weights is not None:
            weights.check(blank, arch)
            on_event(Event(phase="weights", message=f"starting from '{weights.name}', sha256 {weights.sha256[:12]}"))
        check_training(
            blank,
            _batch_shape(plan),
            clock.device,
            on_event,
            experts=len(held) if recipe.rounds else 0,
            trajectories=_trajectory_bytes(plan, held),
            disk=progress.free_bytes,
            data=dataset.train.pixels.nbytes,
            encoded=encoded_bytes(dataset.train.pixels, space, clock.device),
            scoring=_scoring(plan, request),
        )
        asked = (request, config, dataset, space, clock.device, on_event)
        known = None if request.score_epochs else prepare(*asked)
        task, saved = progress.begin(_task(plan, request, known), on_event)
        ledger = _ledger(plan, request, progress, saved, team)
        difficulty = known or prepare(*asked, before=ledger.nets, on_net=ledger.scored, team=team)
        plan = replace(plan, subset=difficulty.subset, clock=task.clock)
        with Store(_trajectory_bytes(plan, held), hold=progress.keeps) as store:
            sampler = _sampler(plan)
            experts: dict[int, Sequence[NewSection]] = {}
            for number in ours:
                finished = ledger.sections_of(number)
                if finished is None:
                    finished = tuple(train_expert(plan, number, sampler, store, ledger))
                    ledger.finish(number, finished)
                experts[number] = finished
            _gather(plan, experts, store, progress, team)
            made = [*difficulty.sections, *(section for number in sorted(experts) for section in experts[number])]
            record = _record(plan, difficulty, made)
            data = dataset.manifest() | {"space": describe_space(space)}
            if team.leads:
                bundle = Bundle.create("teacher", data, record, [*space_sections(space), *made])
            else:
                share = NewSection("state.share", "state", {}, parameters={"process": [team.rank, team.size]})
                bundle = Bundle.create("partial", data, record, [share, *made])
            store.release()
            return bundle


def _gather(
    plan: TeacherPlan, experts: dict[int, Sequence[NewSection]], store: Store, progress: Progress, team: Team
) -> None:
    """Give our experts to the first process, or, as that one, take those of the others."""
    if team.size > 1:
        progress.rest()
    for index, number in enumerate(numbers(plan.config)):
        owner = index % team.size
        if team.leads and owner:
            plan.on_event(Event(phase="gathering experts", done=index, total=len(numbers(plan.config))))
            experts[number] = take_over(team, owner, store.tensor)
        elif owner == team.rank and not team.leads:
            hand_over(team, experts[number])


def _task(plan: TeacherPlan, request: Request, known: Prepared | None) -> Task:
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


def _ledger(plan: TeacherPlan, request: Request, progress: Progress, saved: Saved | None, team: Team) -> Ledger:
    """What is done, of our nets that score and those that are experts."""
    rounds, scoring = plan.recipe.rounds, request.score_epochs
    nets, experts = team.mine(range(request.options.score_nets)), team.mine(numbers(plan.config))
    total = scoring * len(nets) + rounds * len(experts)
    return Ledger(progress, saved, score_epochs=scoring, rounds=rounds, total=total)


def _record(plan: TeacherPlan, difficulty: Prepared, made: Sequence[NewSection]) -> StageRecord:
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


def _sampler(plan: TeacherPlan) -> Sampler:
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


def _flops(plan: TeacherPlan) -> dict[str, int]:
    """Of one forward pass of one image, and of the whole training, by LADD's rule; GSAM passes twice."""
    subset = plan.subset
    forward = forward_flops(plan.arch, **shape(plan.dataset))
    seen = len(plan.dataset.train) * plan.recipe.rounds
    if subset is not None:
        seen = sum(len(subset(epoch)) for epoch in range(plan.recipe.rounds))
    passes = 2 if plan.recipe.optimizer == "gsam" else 1
    return {"forward": forward, "training": TRAINING_STEP * forward * seen * passes * len(numbers(plan.config))}


def _scoring(plan: TeacherPlan, request: Request) -> tuple[Net, tuple[int, ...]] | None:
    """A net that computes scores, on the meta device, and the shape of its batches; None when none does."""
    if not request.score_epochs:
        return None
    arch = request.options.arch(plan.dataset.info.height)
    batch = min(scoring_recipe(request.options).batch, len(plan.dataset.train))
    return on_meta(arch, **shape(plan.dataset)), (batch, *plan.dataset.train.pixels.shape[1:])


def _batch_shape(plan: TeacherPlan) -> tuple[int, ...]:
    return min(plan.recipe.batch, len(plan.dataset.train)), *plan.dataset.train.pixels.shape[1:]


def _trajectory_bytes(plan: TeacherPlan, held: Sequence[int]) -> int:
    """Of the trajectories of the experts that this process holds in the end, without buffers."""
    net = on_meta(plan.arch, **shape(plan.dataset))
    row = sum(parameter.numel() for parameter in net.parameters()) * torch.float32.itemsize
    return row * len(plan.recorded) * len(held)


def read_options(config: TrainTeacherConfig, settings: Mapping[str, Any]) -> Request:
    """What the options ask for.

    Raises:
        UsageError: they are impossible, or unknown.
    """
    check_untrained(config, settings)
    return read_request(config, _defaults(config), settings)


def _defaults(config: TrainTeacherConfig) -> dict[str, Any]:
    """Recipe fields before `--set`."""
    return {**as_dict(default_recipe()), "epochs": max(1, config.epochs), **PRESETS[config.optimizer]}


def _summaries(sections: Sequence[NewSection], kind: str) -> list[dict[str, Any]]:
    return [
        {key: section.parameters[key] for key in ("member", "epoch", "accuracy")}
        for section in sections
        if section.kind == kind
    ]
