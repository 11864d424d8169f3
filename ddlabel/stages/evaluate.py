"""Stage `evaluate`: fresh students trained on the bundle, scored on test data, beside honest baselines."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .. import _plugins
from ..bundle import Bundle
from ..config import EvaluateConfig
from ..distilled import read_distilled
from ..errors import UsageError
from ..events import Event, OnEvent, ignore
from ..labels._labels import read_labels
from ..nets._flops import TRAINING_STEP, forward_flops
from ..options import as_dict, check
from ..preprocess import data_of
from ..protocols.ddranking import RankingOptions
from ..scores import summarise
from ..training import Recipe
from ._calibration import calibrate, summarise_calibration
from ._diagnose import diagnose
from ._gradcam import GradCam, OnOverlays
from ._label_kinds import parse_labels, usable_beside
from ._plan import Plan
from ._ranking import check_ranking, rank, resolve_ranking
from ._stage import computing, load_like, redact
from ._students import train_student
from ._trials import Trial, add_differences, optimizer_table, resolve_losses
from ._use import Use, resolve_use

__all__ = ["run"]


def run(
    bundle: Bundle,
    config: EvaluateConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    teachers: Sequence[Bundle] = (),
    plain: Sequence[Bundle] = (),
    on_overlays: OnOverlays | None = None,
    on_event: OnEvent = ignore,
) -> Bundle:
    """Score a distilled bundle: nets x losses x optimisers x seeds, mean, spread, 95 % interval, last epoch.

    Args:
        bundle: a distilled bundle.
        config: data set, nets, label kind, losses, optimisers, protocol and seeds.
        settings: overrides of the protocol's recipe and options of the losses (`--set`).
        teachers: the teachers of the labels; needed by `baselines`, which labels random images the same way.
        plain: the plain baseline of `equal_bytes`, at most one; without it, it is distilled again.
        on_overlays: given the maps of `gradcam`, one net after the other.
        on_event: told of progress.

    Returns:
        The bundle with one entry more in `evaluations`.

    Raises:
        UsageError: unknown names or options; baselines without the teachers of the labels; nothing to diagnose.
        BundleError: missing or stale labels; data of other classes or image shape; an unfair plain baseline.
        DivergedError: a loss became non-finite.
    """
    check(config)
    ranking, settings = resolve_ranking(config, settings or {})
    with computing(config.device, config.threads) as clock:
        kind, privileged = parse_labels(config.labels, bundle)
        labels = None if kind == "hard" else read_labels(bundle, kind)
        losses = resolve_losses(config, kind, labels, on_event)
        if privileged is not None and config.labels is None:
            privileged = usable_beside(privileged, kind, losses, settings, on_event)
        plan = Plan(
            bundle=bundle,
            config=config,
            settings=settings,
            kind=kind,
            labels=labels,
            use=None if privileged is None else resolve_use(bundle, privileged, settings),
            losses=losses,
            distilled=read_distilled(bundle),
            dataset=load_like(bundle, config.data, on_event),
            teachers=tuple(teachers),
            plain=tuple(plain),
            clock=clock,
            on_event=on_event,
        )
        plan.check_before_work()
        if ranking is not None:
            check_ranking(plan, ranking)
        if config.diagnose is not None and plan.use is None:
            raise UsageError(
                f"--diagnose measures feature and attention labels, --labels is '{plan.label_kinds}'",
                field="diagnose",
                hint="add +feature or +attention to --labels",
            )
        cam = _gradcam(plan, on_overlays)
        plan = plan.ready()
        evaluation = _evaluate(plan, cam, ranking)
        record = clock.record(
            "evaluate",
            as_dict(config)
            | {
                "data": redact(config.data),
                "diagnose": config.diagnose and os.path.basename(config.diagnose),
                "gradcam": config.gradcam and os.path.basename(config.gradcam.rstrip("/")),
                "labels": plan.label_kinds,
                "loss": list(plan.losses),
                "protocol": plan.protocol,
            },
            seed=config.seed,
            inputs=[bundle, *teachers, *plain],
            metrics={"flops": {"students": sum(result["flops"] for result in evaluation["results"])}},
        )
        return bundle.with_evaluation(record, evaluation)


def _gradcam(plan: Plan, on_overlays: OnOverlays | None) -> GradCam | None:
    if plan.config.gradcam is None:
        return None
    seed, space = plan.config.seed, plan.distilled.space
    cam = GradCam(plan.dataset, space, seed=seed, on_overlays=on_overlays, on_event=plan.on_event)
    cam.check(plan.archs)
    return cam


def _evaluate(plan: Plan, cam: GradCam | None, ranking: RankingOptions | None) -> dict[str, Any]:
    """Train and score every row; the manifest's evaluation record."""
    results, scores = _score_rows(plan, cam) if ranking is None else rank(plan, ranking, cam)
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
        "statistic": "test accuracy of the last epoch",
        "test": {"name": info.name, "images": len(plan.dataset.test)},
        "same_source": plan.dataset.fingerprint == data_of(plan.bundle)["fingerprint"],
        "images": plan.bundle.images_digest(),
        "assumption_compliant": True,
    }
    if plan.use is not None:
        record["privileged"] = plan.use.record()
        if plan.config.diagnose is not None:
            record["diagnostics"] = _diagnose(plan, plan.use)
    if ranking is not None:
        record["ranking"] = scores
    if cam is not None:
        record["gradcam"] = cam.record
    if len({trial.recipe.get("optimizer") for trial in plan.trials}) > 1:
        record["optimizers"] = optimizer_table(results)
    return record


def _score_rows(plan: Plan, cam: GradCam | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    first = plan.trials[0]
    results = [
        _score_row(plan, trial, arch, cam if trial is first else None) for arch in plan.archs for trial in plan.trials
    ]
    add_differences(results)
    return results, []


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


def _score_row(plan: Plan, trial: Trial, arch: str, cam: GradCam | None) -> dict[str, Any]:
    recipe, loss = plan.recipe_and_loss(arch, trial)
    looks = _plugins.load("protocols", plan.protocol, "PROTOCOL").test_evaluations
    info, last, best, samples = plan.dataset.info, [], [], 0
    features: list[Mapping[str, Any]] = []
    calibrations = []
    for index in range(plan.config.seeds):
        name = _name(trial, recipe, arch, index)
        scored = train_student(
            plan.student_data(trial, index),
            recipe,
            loss,
            arch=arch,
            info=info,
            scored_on=plan.dataset.test,
            looks=looks,
            seed=plan.config.seed,
            path=("student", arch, index),
            device=plan.clock.device,
            on_event=lambda event, name=name: plan.on_event(dataclasses.replace(event, phase=name)),  # type: ignore[misc]
            use=plan.use,
        )
        last.append(scored.accuracies[-1])
        best.append(max(scored.accuracies))
        samples = scored.samples
        calibrations.append(calibrate(scored.net, plan.dataset, plan.distilled.space))
        if cam is not None and index == 0:
            cam.look(scored.net, arch)
        if scored.features is not None:
            features.append(scored.features)
        plan.on_event(Event(phase=name, message=f"{name}: {last[-1]:.2%}"))
    forward = forward_flops(arch, channels=info.channels, size=info.height, classes=len(info.classes))
    row = {
        "arch": arch,
        "images": trial.images,
        "labels": trial.label_kinds,
        "loss": {"name": trial.loss, "options": as_dict(loss)},
        "recipe": as_dict(recipe),
        "accuracy": summarise(last),
        "best_on_test": summarise(best),
        "calibration": summarise_calibration(calibrations),
        "samples_seen": samples,
        "flops": TRAINING_STEP * forward * samples * plan.config.seeds,
        "stored_bytes": plan.stored_bytes(trial),
        **plan.tuning(trial),
    }
    return row | ({"features": _features(features)} if features else {})


def _features(students: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row says of its students' adapters: counts once, numbers student by student."""
    return {name: students[0][name] for name in ("layer", "adapter", "adapter_parameters")} | {
        name: [student[name] for student in students] for name in ("adapter_norm", "mse")
    }


def _name(trial: Trial, recipe: Recipe, arch: str, index: int) -> str:
    how = f", {recipe.optimizer} {recipe.lr:g}" if trial.recipe else ""
    return f"{trial.images} images, {trial.label_kinds} labels, {trial.loss}{how}, {arch}, seed {index}"
