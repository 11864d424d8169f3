"""`evaluate --diagnose`: feature and attention labels as numbers, beside noise and beside no labels at all.

The numbers go into the evaluation record as `diagnostics`; `ddlabel.privileged._measures` says what each of them means
and its range, `_alignment` what alignment is. None of them is a proof of use: that is the accuracy of students.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import seeding
from ..bundle import Bundle
from ..data._dataset import Dataset
from ..distilled import DistilledSet
from ..events import Event, OnEvent, ignore
from ..labels._privileged import PrivilegedSet
from ..privileged import _measures as measures
from ..privileged._form import Form
from ..privileged._objective import Norm, Objective, fit_norm
from ..privileged._scale import fresh_ratios, scale_rows, scale_warning
from ._alignment import BATCH, NETS, STEPS, Aligned, Real, Variant, alignment_on, held_out_nets
from ._basis import Sources, own_nets
from ._stage import Clock

__all__ = ["diagnose"]

MOST_LABELS = 1000
"""Labels that enter the measures, evenly over the set: spectra of n x n matrices cost n^3."""
MOST_POINTS = 500
"""Labels in the picture."""
MOST_CLASSES = 20
"""Classes that gradients are compared of, evenly over all."""
FRESH, TEACHER = "held-out nets", "teachers"


def diagnose(
    privileged: PrivilegedSet,
    distilled: DistilledSet,
    dataset: Dataset,
    clock: Clock,
    *,
    objective: Objective,
    norm: Norm | None,
    seed: int,
    history: Sequence[Mapping[str, Any]] = (),
    teachers: Sequence[Bundle] = (),
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Measure the labels of a bundle; JSON numbers, lists and strings.

    Args:
        privileged: the labels as students see them; of several per image, the mean is measured.
        distilled: the images that they are of.
        dataset: real images for the gradients and features that labels are compared with.
        clock: device.
        objective, norm: how labels enter the loss of students; noise in their place gets a norm of its own.
        seed: of nets, noise and real batches; the same for all variants.
        history: of the bundle, which says by which nets the labels were made.
        teachers: those that made the labels, if at hand: labels are told apart in the features of the very nets
            (`own_nets`), which are the labels' own basis; without them, and for labels that began with nets that are
            not kept, in features of held-out nets, where chance is to be expected.
        on_event: told after every step of a net and every class of a comparison.
    """
    device = clock.device
    labels = privileged.values.mean(dim=1).to(device)
    case = _Case(
        real=Real(dataset, distilled.space, device, seed),
        images=distilled.images.to(device),
        hard=distilled.labels.to(device),
        labels=labels,
        noise=torch.randn(labels.shape, generator=seeding.generator(seed, "diagnose", "noise")).to(device),
        form=privileged.form,
        objective=objective,
        norm=norm,
    )
    basis = own_nets(privileged, history, teachers, device)
    source = Sources(case.real, case.form)
    for net in basis:
        source.add(net)
    classes = _evenly(torch.unique(distilled.labels), MOST_CLASSES).tolist()
    aligned = _align(case, classes, None if basis else source, on_event)
    chosen = _evenly(torch.arange(len(labels)), MOST_LABELS).to(device)
    return {
        "form": dataclasses.asdict(case.form) | {"shape": list(case.form.shape)},
        "kind": privileged.kind,
        "mode": privileged.parameters.get("mode"),
        "matcher": privileged.parameters.get("matcher"),
        "images": len(labels),
        "labels_per_image": privileged.values.shape[1],
        "measured": len(chosen),
        "told_apart_by": TEACHER if basis else FRESH,
        "measures": {
            "labels": _measure(case.labels[chosen].cpu(), case.hard[chosen].cpu(), source),
            "noise": _measure(case.noise[chosen].cpu(), case.hard[chosen].cpu(), source),
        },
        "alignment": {name: _summary(each) for name, each in aligned.items()},
        "setting": {"nets": NETS, "steps": STEPS, "real_images": BATCH, "classes": len(classes)},
        "scale": _scale(case),
        "picture": _picture(case.labels[chosen].cpu(), case.hard[chosen].cpu(), dataset.info.classes),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Case:
    """What is compared with what, on one device."""

    real: Real
    images: Tensor
    hard: Tensor
    labels: Tensor
    """(n, *form.shape)."""
    noise: Tensor
    """(n, *form.shape)."""
    form: Form
    objective: Objective
    norm: Norm | None


def _align(
    case: _Case, classes: Sequence[int], source: Sources | None, on_event: OnEvent
) -> dict[str, list[tuple[str, Aligned]]]:
    """The variants on every held-out net, by name; `source` gets the trained nets."""
    variants = {
        "none": Variant(None),
        "noise": Variant(case.noise, None if case.norm is None else fit_norm(case.noise)),
        "labels": Variant(case.labels, case.norm),
    }
    aligned: dict[str, list[tuple[str, Aligned]]] = {name: [] for name in variants}
    done = itertools.count(1)

    def tick() -> None:
        on_event(Event(phase="diagnosing labels", done=next(done), total=NETS * (STEPS + 2 * len(classes))))

    for stage, net in held_out_nets(case.real, case.form.arch, tick):
        found = alignment_on(
            net,
            case.real,
            case.images,
            case.hard,
            variants,
            classes=classes,
            form=case.form,
            objective=case.objective,
            tick=tick,
        )
        for name, one in found.items():
            aligned[name].append((stage, one))
        if stage == "trained" and source is not None:
            source.add(net)
    return aligned


def _measure(labels: Tensor, hard: Tensor, source: Sources) -> dict[str, float | None]:
    rows = labels.flatten(1)
    found = {
        "fisher_ratio": measures.fisher_ratio(rows, hard),
        "between_variance": measures.between_variance(rows, hard),
        **source.tell_apart(rows, hard),
        "within_class_spread": measures.within_class_spread(rows, hard),
        "effective_rank": measures.effective_rank(rows),
        "vendi": measures.vendi(rows),
        "uniformity": measures.uniformity(rows),
        "deviation": float(rows.double().var(0, correction=0).mean().sqrt()),
    }
    return {name: None if value is None else _rounded(value) for name, value in found.items()}


def _summary(each: Sequence[tuple[str, Aligned]]) -> dict[str, Any]:
    """Means over the nets of each stage, and the cosine of every net."""
    summary: dict[str, Any] = {}
    for stage in ("init", "trained"):
        ours = [one for where, one in each if where == stage]
        summary[stage] = {
            "cosine": _rounded(statistics.mean(one.cosine for one in ours)),
            "cosine_by_net": [_rounded(one.cosine) for one in ours],
            "distance": _rounded(statistics.mean(one.distance for one in ours)),
        }
    return summary


def _scale(case: _Case) -> dict[str, Any]:
    """How strongly the labels pull on fresh nets, at weight 1 and at the weight in use: as before training."""
    rows = scale_rows(len(case.images), case.real.seed).to(case.images.device)
    ratios = fresh_ratios(
        case.images[rows],
        case.hard[rows],
        case.labels[rows],
        case.form,
        case.objective,
        case.norm,
        classes=len(case.real.dataset.info.classes),
        seed=case.real.seed,
    )
    median = statistics.median(ratios)
    return {
        "lambda_reg": case.objective.lambda_reg,
        "ratio": _rounded(median),
        "rho": _rounded(case.objective.lambda_reg * median),
        "warning": scale_warning(case.objective.lambda_reg, ratios),
    }


def _picture(labels: Tensor, hard: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Coordinates on the first two principal axes of up to 500 labels."""
    chosen = _evenly(torch.arange(len(labels)), MOST_POINTS).to(labels.device)
    points, shares = measures.principal_axes(labels[chosen].flatten(1))
    return {
        "points": [[_rounded(x, 4), _rounded(y, 4)] for x, y in points.tolist()],
        "hard": hard[chosen].tolist(),
        "explained": [_rounded(share, 4) for share in shares],
        "classes": list(classes),
    }


def _evenly(values: Tensor, most: int) -> Tensor:
    """At most so many of the values (n,), evenly over all."""
    kept = min(len(values), most)
    return values[torch.arange(kept) * len(values) // kept]


def _rounded(value: float, digits: int = 6) -> float:
    """To significant digits: the record is text."""
    return float(f"{value:.{digits}g}")
