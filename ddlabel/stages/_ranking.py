"""DD-Ranking's four scores of a bundle, from students of real, distilled and random images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..config import EvaluateConfig
from ..errors import UsageError
from ..events import Event
from ..options import as_dict, build
from ..protocols.ddranking import RankingOptions
from ..scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    paired_difference,
    summarise,
)
from ..training import encoder
from ._baselines import check_teachers
from ._gradcam import GradCam
from ._jobs import Jobs
from ._plan import Plan
from ._ranking_students import REAL, Cell, Rows, Students
from ._trials import BUNDLE, RANDOM, SUITS, Trial

__all__ = ["PROTOCOL", "check_ranking", "rank", "resolve_ranking", "scores"]

PROTOCOL = "ddranking"


def resolve_ranking(
    config: EvaluateConfig, settings: Mapping[str, Any]
) -> tuple[RankingOptions | None, dict[str, Any]]:
    """What `--set` says of the scores, and what is left for recipe, loss and labels; None for other protocols.

    Raises:
        UsageError: values out of bounds.
    """
    if config.protocol != PROTOCOL:
        return None, dict(settings)
    names = {each.name for each in dataclasses.fields(RankingOptions)}
    options = build(RankingOptions, {name: value for name, value in settings.items() if name in names})
    return options, {name: value for name, value in settings.items() if name not in names}


def check_ranking(plan: Plan, options: RankingOptions) -> None:
    """Refuse what cannot be ranked before the first student is trained.

    Raises:
        UsageError: several losses or optimisers, a learning rate, a live teacher, further baselines or steps of
            classes; labels that nobody can give random images; no held-out images to choose the learning rate on.
    """
    config, problems = plan.config, []
    if len(plan.losses) > 1:
        problems.append(f"--protocol {PROTOCOL} ranks one loss, expected one --loss, got {', '.join(plan.losses)}")
    if config.optimizer:
        problems.append(f"--protocol {PROTOCOL} chooses its learning rates, expected --set optimizer, not --optimizer")
    if "lr" in plan.settings:
        problems.append(f"--protocol {PROTOCOL} chooses its learning rates, expected --set rates, not lr")
    if plan.live is not None:
        problems.append(f"--protocol {PROTOCOL} ranks stored labels, --labels is 'online'")
    if not options.rates:
        problems.append("option 'rates' is empty, expected learning rates to choose from")
    for name, given in (("equal-bytes", config.equal_bytes), ("incremental", bool(config.incremental))):
        if given:
            problems.append(f"--{name} is another evaluation than --protocol {PROTOCOL}, expected one of them")
    if problems:
        raise UsageError.collect(problems)
    if plan.learned or (plan.use is not None and not plan.use.is_assigned):
        raise UsageError(
            f"--protocol {PROTOCOL} compares with random images under the same labels; '{plan.label_kinds}' was "
            "learned with the images and cannot be made for others",
            field="labels",
            hint="rank the images with --labels hard, or with labels of a teacher",
        )
    if not len(plan.dataset.validation):
        raise UsageError(
            f"--protocol {PROTOCOL} chooses learning rates on held-out training images, {plan.bundle.name} has none",
            field="validation",
            hint="distil with --validation 0.1, or use another protocol",
        )
    if plan.labels is not None:
        check_teachers(plan.kind, plan.labels.section, plan.teachers)
    if plan.use is not None:
        check_teachers(plan.use.kind, plan.use.stored.section, plan.teachers)


def rank(
    plan: Plan, options: RankingOptions, jobs: Jobs, cam: GradCam | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train everything; the rows of all nets, and one record of scores for each.

    First the first students at all learning rates, then the other students at those that are chosen.

    A record's `accuracies` are by comparison and seed; `rates` says what was chosen from which accuracies on held-out
    images. `selection` counts what students that were not chosen cost; they are in no row.

    Raises:
        DivergedError: at every learning rate.
    """
    encode = encoder(plan.dataset.train.pixels, plan.distilled.space, plan.clock.device)
    nets = [Students(plan, options, arch, encode, _cells(plan, arch), cam) for arch in plan.archs]
    jobs.announce(sum(net.students for net in nets))
    first = jobs.run([job for net in nets for job in net.candidates()])
    for net in nets:
        net.choose(first)
    done = first | jobs.run([job for net in nets for job in net.others()])
    results: list[dict[str, Any]] = []
    records = []
    for net in nets:
        rows = net.rows(done)
        _add_differences(rows)
        results += rows.values()
        accuracies = {name: row["accuracy"]["values"] for name, row in rows.items()}
        record = {"arch": net.arch, **scores(accuracies, options), "rates": net.choices, "options": as_dict(options)}
        spent = {"samples_seen": net.spent, "flops": net.flops(net.spent)}
        records.append({**record, "selection": spent})
    return results, records


def scores(accuracies: Mapping[str, list[float]], options: RankingOptions) -> dict[str, Any]:
    """The four scores, each over seeds, and the accuracies that they come from.

    Args:
        accuracies: fractions by seed, named as `Rows` are. Without `_hard` of the images `_any` is that too; without
            `_plain` there is no ARS.
        options: the weights.
    """
    found = {**{f"{images}_hard": accuracies[f"{images}_any"] for images in (BUNDLE, RANDOM)}, **accuracies}

    def by_seed(score: Callable[[float, float], float], first: str, second: str) -> list[float]:
        return [score(a, b) for a, b in zip(found[first], found[second], strict=True)]

    hlr = by_seed(hard_label_recovery, "real_hard", "bundle_hard")
    ior = by_seed(improvement_over_random, "bundle_any", "random_any")
    lrs = [label_robust_score(*both, w=options.w) for both in zip(hlr, ior, strict=True)]
    ars = None
    if "bundle_plain" in found:
        plain, gamma = by_seed(improvement_over_random, "bundle_plain", "random_plain"), options.w_augmented
        ars = summarise([augmentation_robust_score(*both, gamma=gamma) for both in zip(ior, plain, strict=True)])
    return {"hlr": summarise(hlr), "ior": summarise(ior), "lrs": summarise(lrs), "ars": ars, "accuracies": found}


def _cells(plan: Plan, arch: str) -> dict[str, Cell]:
    """What students of a net train on, those of the bundle as it is evaluated first."""
    ours = plan.trials[0]
    cells = _pair("any", ours)
    if plan.recipe_and_loss(arch, ours)[0].augment != "none":
        cells |= _pair("plain", ours, augmented=False)
    else:
        plan.on_event(
            Event(phase="ranking", message=f"no ARS: students of {ours.label_kinds} labels are not augmented")
        )
    hard = Trial(BUNDLE, "hard", SUITS["hard"])
    if ours != hard:
        cells |= _pair("hard", hard)
    return cells | {"real_hard": Cell(REAL, dataclasses.replace(hard, images=REAL))}


def _pair(name: str, trial: Trial, *, augmented: bool = True) -> dict[str, Cell]:
    """The images and random ones, treated alike."""
    mode = "hard" if name == "hard" else "any"
    return {
        f"{BUNDLE}_{name}": Cell(mode, trial, augmented),
        f"{RANDOM}_{name}": Cell(mode, dataclasses.replace(trial, images=RANDOM), augmented),
    }


def _add_differences(rows: Rows) -> None:
    """The images less random ones, and less real data with the same labels, hard ones."""
    for name, row in rows.items():
        images, _, how = name.partition("_")
        if images == RANDOM:
            row["bundle_minus_this"] = _difference(rows[f"{BUNDLE}_{how}"], row)
        elif images == REAL:
            row["bundle_minus_this"] = _difference(rows.get("bundle_hard", rows["bundle_any"]), row)


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    return paired_difference(ours["accuracy"]["values"], theirs["accuracy"]["values"])
