"""Stage `evaluate`: fresh students trained on the bundle, scored on test data, beside honest baselines."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..bundle import Bundle
from ..config import EvaluateConfig
from ..distilled import read_distilled
from ..errors import UsageError
from ..events import OnEvent, ignore
from ..labels._labels import choose_kind, read_labels
from ..options import as_dict, check
from ..preprocess import data_of, describe_space
from ..protocols.ddranking import RankingOptions
from ..team import ALONE, Team
from ._diagnose import diagnose
from ._gradcam import GradCam, OnOverlays
from ._incremental import by_steps, score_increments
from ._increments import Increments, resolve_increments, steps_of
from ._jobs import Job, Jobs, Outcome
from ._label_kinds import parse_labels, usable_beside
from ._online import ONLINE, open_teacher, resolve_online
from ._partial import Progress, Task
from ._plan import Plan
from ._ranking import PROTOCOL as RANKING
from ._ranking import check_ranking, rank, resolve_ranking
from ._recipe import check_archs, protocol_loss
from ._row_checks import check_before_work
from ._rows import score_rows
from ._stage import Clock, computing, load_like, redact
from ._students import Watch
from ._summary import summaries_over_nets
from ._trials import BUNDLE, optimizer_table, resolve_losses
from ._use import Use, resolve_use

__all__ = ["run"]

STATISTIC = "test accuracy of the last epoch"
INCREMENTAL_STATISTIC = (
    "test accuracy of the last epoch on the classes so far, by the largest of all outputs, mean over steps"
)


def run(
    bundle: Bundle,
    config: EvaluateConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    teachers: Sequence[Bundle] = (),
    plain: Sequence[Bundle] = (),
    on_overlays: OnOverlays | None = None,
    on_event: OnEvent = ignore,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Bundle:
    """Score a distilled bundle: nets x losses x optimisers x seeds, mean, spread, 95 % interval, last epoch.

    Args:
        bundle: a distilled bundle.
        config: data set, nets, label kind, losses, optimisers, protocol and seeds.
        settings: overrides of the protocol's recipe and options of the losses (`--set`).
        teachers: the teachers of the labels; needed by `baselines`, which labels random images the same way. Alone
            they answer every batch: the evaluation with a live teacher.
        plain: the plain baseline of `equal_bytes`, at most one; without it, it is distilled again.
        on_overlays: given the maps of `gradcam`, one net after the other, when all students are trained.
        on_event: told of progress; every call is a safe point for an interrupt.
        progress: where states go, and one to continue from; the result has the same bits either way.
        team: processes that share the students; each returns the same bundle as one process alone.

    Returns:
        The bundle with one entry more in `evaluations`.

    Raises:
        UsageError: unknown names or options; baselines without the teachers of the labels; nothing to diagnose;
            class-incremental steps that cannot be; a state of other options.
        BundleError: missing or stale labels; data of other classes or image shape; an unfair plain baseline; a damaged
            state, or one of other data or versions.
        DivergedError: a loss became non-finite.
        ResourceError: another process of the team is gone.
    """
    check(config)
    given = settings or {}
    ranking, settings = resolve_ranking(config, given)
    with computing(config.device, config.threads, team) as clock:
        plan, increments = _resolve(bundle, config, settings, teachers, plain, clock, on_event)
        _check(plan, ranking)
        cam = _gradcam(plan, increments, on_overlays)
        progress = progress or Progress()
        task, saved = progress.begin(_task(plan, increments, given), on_event)
        jobs = Jobs(progress, saved, team, on_event)
        jobs.announce(_expected(plan, increments, ranked=ranking is not None))
        plan = dataclasses.replace(plan, clock=task.clock).ready(jobs)
        evaluation = _evaluate(plan, increments, cam, ranking, jobs)
        record = plan.clock.record(
            "evaluate",
            _options(plan, increments),
            seed=config.seed,
            inputs=task.inputs,
            metrics={"flops": {"students": sum(result["flops"] for result in evaluation["results"])}},
        )
        return bundle.with_evaluation(record, evaluation)


def _resolve(
    bundle: Bundle,
    config: EvaluateConfig,
    settings: Mapping[str, Any],
    teachers: Sequence[Bundle],
    plain: Sequence[Bundle],
    clock: Clock,
    on_event: OnEvent,
) -> tuple[Plan, Increments | None]:
    """The plan, and the steps of classes; see `run`."""
    config = resolve_online(config, bundle, teachers)
    live = open_teacher(teachers, bundle, settings, clock) if config.labels == ONLINE else None
    kind, privileged = parse_labels(config.labels, bundle) if live is None else (choose_kind(bundle), None)
    labels = None if kind == "hard" else read_labels(bundle, kind)
    learnt = (kind, labels) if live is None else (ONLINE, None)
    losses = resolve_losses(config, *learnt, on_event, choice=protocol_loss(bundle, config, learnt[0]))
    if privileged is not None and config.labels is None:
        privileged = usable_beside(privileged, kind, losses, settings, on_event, incremental=bool(steps_of(config)))
    distilled = read_distilled(bundle)
    kinds = kind if privileged is None else f"{kind}+{privileged}"
    increments, settings = resolve_increments(config, settings, len(distilled.classes), kinds)
    plan = Plan(
        bundle=bundle,
        config=config,
        settings=settings,
        kind=kind,
        labels=labels,
        use=None if privileged is None else resolve_use(bundle, privileged, settings),
        losses=losses,
        distilled=distilled,
        dataset=load_like(bundle, config.data, on_event),
        teachers=tuple(teachers),
        plain=tuple(plain),
        clock=clock,
        on_event=on_event,
        live=live,
    )
    return plan, increments


def _check(plan: Plan, ranking: RankingOptions | None) -> None:
    """Refuse what cannot be evaluated, before any work."""
    check_archs(plan.archs, plan.config, plan.dataset.info)
    check_before_work(plan)
    if ranking is not None:
        check_ranking(plan, ranking)
    if plan.config.diagnose is not None and plan.use is None:
        raise UsageError(
            f"--diagnose measures feature and attention labels, --labels is '{plan.label_kinds}'",
            field="diagnose",
            hint="add +feature or +attention to --labels",
        )


def _options(plan: Plan, increments: Increments | None) -> dict[str, Any]:
    """Options as the history says them: without paths, and with what `auto` came to."""
    config = plan.config
    return as_dict(config) | {
        "data": redact(config.data),
        "diagnose": config.diagnose and os.path.basename(config.diagnose),
        "gradcam": config.gradcam and os.path.basename(config.gradcam.rstrip("/")),
        "incremental": list(increments.steps) if increments else [],
        "picture": config.picture and os.path.basename(config.picture),
        "labels": plan.label_kinds,
        "loss": list(plan.losses),
        "protocol": plan.protocol,
    }


def _task(plan: Plan, increments: Increments | None, settings: Mapping[str, Any]) -> Task:
    """What is about to be made; what `--set` says is in no history, and still makes another evaluation."""
    dataset = plan.dataset
    splits = {"held-out images": dataset.validation, "test images": dataset.test}
    if plan.config.diagnose or plan.protocol == RANKING or any(trial.images != BUNDLE for trial in plan.trials):
        splits["training images"] = dataset.train
    return Task(
        clock=plan.clock,
        stage="evaluate",
        config=_options(plan, increments) | {"set": {name: str(value) for name, value in settings.items()}},
        seed=plan.config.seed,
        inputs=[plan.bundle, *plan.teachers, *plan.plain],
        data=dataset.manifest() | {"space": describe_space(plan.distilled.space)},
        splits=splits,
        unit="jobs",
    )


def _expected(plan: Plan, increments: Increments | None, *, ranked: bool) -> int:
    """Jobs that are certain before the first; a ranking announces its own."""
    diagnoses = int(plan.use is not None and plan.config.diagnose is not None)
    if ranked:
        return diagnoses
    each = plan.config.seeds * (1 if increments is None else len(increments.orders) * sum(increments.steps))
    return len(plan.archs) * len(plan.trials) * each + diagnoses


def _gradcam(plan: Plan, increments: Increments | None, on_overlays: OnOverlays | None) -> GradCam | None:
    if plan.config.gradcam is None:
        return None
    if increments is not None:
        raise UsageError(
            "--gradcam looks at students of all classes, class-incremental ones have fewer at every step",
            field="gradcam",
            hint="drop --gradcam, or run it without --incremental",
        )
    seed, space = plan.config.seed, plan.distilled.space
    cam = GradCam(plan.dataset, space, seed=seed, on_overlays=on_overlays, on_event=plan.on_event)
    cam.check(plan.archs)
    return cam


def _evaluate(
    plan: Plan, increments: Increments | None, cam: GradCam | None, ranking: RankingOptions | None, jobs: Jobs
) -> dict[str, Any]:
    """Train and score every row; the manifest's evaluation record."""
    scores: list[dict[str, Any]] = []
    if ranking is not None:
        results, scores = rank(plan, ranking, jobs, cam)
    else:
        results = score_rows(plan, jobs, cam) if increments is None else score_increments(plan, increments, jobs)
    info = plan.dataset.info
    record: dict[str, Any] = {
        "protocol": plan.protocol,
        "results": results,
        "labels": plan.label_kinds,
        "domain": plan.labels.domain if plan.labels else None,
        "refined": plan.labels.refined if plan.labels else None,
        "codec": dict(plan.labels.section.codec or {}) if plan.labels else None,
        "seeds": list(range(plan.config.seeds)),
        "seed": plan.config.seed,
        "statistic": STATISTIC if increments is None else INCREMENTAL_STATISTIC,
        "test": {"name": info.name, "images": len(plan.dataset.test)},
        "same_source": plan.dataset.fingerprint == data_of(plan.bundle)["fingerprint"],
        "images": plan.bundle.images_digest(),
        "assumption_compliant": plan.live is None,
    }
    if plan.live is not None:
        record["online"] = plan.live.record()
    if plan.use is not None:
        record["privileged"] = plan.use.record()
        if plan.config.diagnose is not None:
            job = Job("diagnostics", 0.0, functools.partial(_diagnose, plan, plan.use))
            record["diagnostics"] = jobs.run([job])[job.key].record
    if increments is not None:
        record["incremental"] = increments.record(plan.kind)
    if ranking is not None:
        record["ranking"] = scores
    if cam is not None:
        record["gradcam"] = cam.record
    if len({trial.recipe.get("optimizer") for trial in plan.trials}) > 1:
        record["optimizers"] = _by_steps(optimizer_table, results)
    if len(plan.archs) > 1:
        record["summary"] = _by_steps(summaries_over_nets, results)
    return record


def _by_steps(
    table: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Entries of a table over rows, made apart for every number of class-incremental steps."""
    return [
        entry if steps is None else {"steps": steps, **entry}
        for steps, rows in by_steps(results).items()
        for entry in table(rows)
    ]


def _diagnose(plan: Plan, use: Use, _watch: Watch) -> Outcome:
    found = diagnose(
        use.labels,
        plan.distilled,
        plan.dataset,
        plan.clock,
        objective=use.objective,
        norm=use.norm,
        seed=plan.config.seed,
        history=plan.bundle.manifest.history,
        teachers=plan.teachers,
        on_event=plan.on_event,
    )
    return Outcome(found)
