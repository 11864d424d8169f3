"""Stage `evaluate`: fresh students trained on the bundle, scored on test data, beside honest baselines."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..config import EvaluateConfig
from ..distilled import read_distilled
from ..errors import UsageError
from ..events import Event, OnEvent, ignore
from ..labels._labels import choose_kind, read_labels
from ..options import as_dict, check
from ..preprocess import data_of
from ._diagnose import diagnose
from ._incremental import by_steps, score_increments
from ._increments import Increments, resolve_increments, steps_of
from ._label_kinds import parse_labels, usable_beside
from ._online import ONLINE, open_teacher, resolve_online
from ._plan import Plan
from ._recipe import protocol_loss
from ._rows import row_name, row_record
from ._stage import computing, load_like, redact
from ._students import train_student
from ._summary import summaries_over_nets
from ._trials import Trial, add_differences, optimizer_table, resolve_losses
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
    on_event: OnEvent = ignore,
) -> Bundle:
    """Score a distilled bundle: nets x losses x optimisers x seeds, mean, spread, 95 % interval, last epoch.

    Args:
        bundle: a distilled bundle.
        config: data set, nets, label kind, losses, optimisers, protocol and seeds.
        settings: overrides of the protocol's recipe and options of the losses (`--set`).
        teachers: the teachers of the labels; needed by `baselines`, which labels random images the same way. Alone
            they answer every batch: the evaluation with a live teacher.
        plain: the plain baseline of `equal_bytes`, at most one; without it, it is distilled again.
        on_event: told of progress.

    Returns:
        The bundle with one entry more in `evaluations`.

    Raises:
        UsageError: unknown names or options; baselines without the teachers of the labels; nothing to diagnose;
            class-incremental steps that cannot be.
        BundleError: missing or stale labels; data of other classes or image shape; an unfair plain baseline.
        DivergedError: a loss became non-finite.
    """
    check(config)
    with computing(config.device, config.threads) as clock:
        config = resolve_online(config, bundle, teachers)
        live = open_teacher(teachers, bundle, settings or {}, clock) if config.labels == ONLINE else None
        kind, privileged = parse_labels(config.labels, bundle) if live is None else (choose_kind(bundle), None)
        labels = None if kind == "hard" else read_labels(bundle, kind)
        learnt = (kind, labels) if live is None else (ONLINE, None)
        losses = resolve_losses(config, *learnt, on_event, choice=protocol_loss(bundle, config, learnt[0]))
        if privileged is not None and config.labels is None:
            privileged = usable_beside(
                privileged, kind, losses, settings or {}, on_event, incremental=bool(steps_of(config))
            )
        distilled = read_distilled(bundle)
        kinds = kind if privileged is None else f"{kind}+{privileged}"
        increments, settings = resolve_increments(config, settings or {}, len(distilled.classes), kinds)
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
        plan.check_before_work()
        if config.diagnose is not None and plan.use is None:
            raise UsageError(
                f"--diagnose measures feature and attention labels, --labels is '{plan.label_kinds}'",
                field="diagnose",
                hint="add +feature or +attention to --labels",
            )
        plan = plan.ready()
        evaluation = _evaluate(plan, increments)
        record = clock.record(
            "evaluate",
            as_dict(config)
            | {
                "data": redact(config.data),
                "diagnose": config.diagnose and os.path.basename(config.diagnose),
                "incremental": list(increments.steps) if increments else [],
                "picture": config.picture and os.path.basename(config.picture),
                "labels": plan.label_kinds,
                "loss": list(plan.losses),
                "protocol": plan.protocol,
            },
            seed=config.seed,
            inputs=[bundle, *teachers, *plain],
            metrics={"flops": {"students": sum(result["flops"] for result in evaluation["results"])}},
        )
        return bundle.with_evaluation(record, evaluation)


def _evaluate(plan: Plan, increments: Increments | None) -> dict[str, Any]:
    """Train and score every row; the manifest's evaluation record."""
    results = _score_rows(plan) if increments is None else score_increments(plan, increments)
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
            record["diagnostics"] = _diagnose(plan, plan.use)
    if increments is not None:
        record["incremental"] = increments.record(plan.kind)
    if len({trial.recipe.get("optimizer") for trial in plan.trials}) > 1:
        record["optimizers"] = _by_steps(optimizer_table, results)
    if len(plan.archs) > 1:
        record["summary"] = _by_steps(summaries_over_nets, results)
    return record


def _score_rows(plan: Plan) -> list[dict[str, Any]]:
    """Every row of students that see all classes at once, with paired differences."""
    results = [_score_row(plan, trial, arch) for arch in plan.archs for trial in plan.trials]
    add_differences(results)
    return results


def _by_steps(
    table: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Entries of a table over rows, made apart for every number of class-incremental steps."""
    return [
        entry if steps is None else {"steps": steps, **entry}
        for steps, rows in by_steps(results).items()
        for entry in table(rows)
    ]


def _diagnose(plan: Plan, use: Use) -> dict[str, Any]:
    return diagnose(
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


def _score_row(plan: Plan, trial: Trial, arch: str) -> dict[str, Any]:
    recipe, loss = plan.recipe_and_loss(arch, trial)
    looks = _plugins.load("protocols", plan.protocol, "PROTOCOL").test_evaluations
    last, best, samples = [], [], 0
    features: list[Mapping[str, Any]] = []
    for index in range(plan.config.seeds):
        name = f"{row_name(trial, recipe, arch)}, seed {index}"
        scored = train_student(
            plan.student_data(trial, index),
            recipe,
            loss,
            arch=arch,
            info=plan.dataset.info,
            scored_on=plan.dataset.test,
            looks=looks,
            seed=plan.config.seed,
            path=("student", arch, index),
            device=plan.clock.device,
            on_event=lambda event, name=name: plan.on_event(dataclasses.replace(event, phase=name)),  # type: ignore[misc]
            use=plan.use,
            respond=plan.respond(trial),
        )
        last.append(scored.accuracies[-1])
        best.append(max(scored.accuracies))
        samples = scored.samples
        if scored.features is not None:
            features.append(scored.features)
        plan.on_event(Event(phase=name, message=f"{name}: {last[-1]:.2%}"))
    row = row_record(plan, trial, arch, recipe, loss, last=last, best=best, samples=samples)
    return row | ({"features": _features(features)} if features else {})


def _features(students: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row says of its students' adapters: counts once, numbers student by student."""
    return {name: students[0][name] for name in ("layer", "adapter", "adapter_parameters")} | {
        name: [student[name] for student in students] for name in ("adapter_norm", "mse")
    }
