"""What must hold of labels before they are written, and again before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import BundleError, DivergedError, UsageError

__all__ = [
    "Place",
    "as_distributions",
    "check_classes",
    "check_features",
    "check_finite",
    "check_identity",
    "check_kept",
    "check_rows",
    "check_size",
    "check_views",
    "identity_of",
]

ROW_TOLERANCE = 1e-4
"""How far a row may be from summing to 1 (`prob`) or from length 1 (`unit`), apart from what its codec rounds."""
RELABEL = "run 'ddlabel augment-labels' again"


@dataclass(frozen=True)
class Place:
    """Which labels are meant, for messages."""

    bundle: str
    section: str

    def __str__(self) -> str:
        return f"{self.bundle}: '{self.section}'"


def check_finite(place: Place, values: Tensor, error: type[BundleError | DivergedError]) -> None:
    """Refuse NaN and infinity in values (n, v, k), naming image and view."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        image, view, label = (int(index) for index in bad.nonzero()[0])
        raise error(
            f"{place}, image {image}, view {view} is not finite: class {label} has {float(values[image, view, label])}",
            field=place.section,
            hint="check the teacher",
        )


def check_features(place: Place, values: Tensor, error: type[BundleError | DivergedError]) -> None:
    """Refuse NaN and infinity in features (n, K, c, h, w), naming image, label and element."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        image, label, *element = (int(index) for index in bad.nonzero()[0])
        raise error(
            f"{place}, image {image}, label {label} is not finite: element {tuple(element)} is "
            f"{float(values[image, label, *element])}",
            field=place.section,
            hint="check the teacher",
        )


def check_rows(place: Place, values: Tensor, domain: str, tolerance: Tensor) -> None:
    """Refuse rows that are not what their domain says: `prob` sums to 1, `unit` has length 1.

    Args:
        place: of the labels, in messages.
        values: (n, v, k), finite.
        domain: others than `prob` and `unit` have no rule.
        tolerance: (n, v) by how much each value may be off because of its codec.

    Raises:
        BundleError: naming image and view.
    """
    if domain not in {"prob", "unit"}:
        return
    classes, values = values.shape[-1], values.double()
    if domain == "prob":
        total, what = values.sum(dim=-1), "is no distribution: sum"
        wrong = (values < -tolerance[..., None]).any(dim=-1) | ((total - 1).abs() > ROW_TOLERANCE + classes * tolerance)
        wrong |= ~(values > 0).any(dim=-1)
    else:
        total, what = values.norm(dim=-1), "is no refined label: length"
        wrong = (total - 1).abs() > ROW_TOLERANCE + classes**0.5 * tolerance
    if bool(wrong.any()):
        image, view = (int(index) for index in wrong.nonzero()[0])
        least = float(values[image, view].min())
        raise BundleError(
            f"{place}, image {image}, view {view} {what} {float(total[image, view]):g}, smallest value {least:g}, "
            f"expected 1 within {ROW_TOLERANCE:g}{' and no negative value' if domain == 'prob' else ''}",
            field=place.section,
            hint=RELABEL,
        )


def as_distributions(values: Tensor, domain: str) -> Tensor:
    """Values (..., k) whose rows are what their domain says again after a codec rounded them.

    `prob` rows are divided by their sum, `unit` rows by their length; others are left alone.
    """
    if domain == "unit":
        return functional.normalize(values, dim=-1)
    if domain != "prob":
        return values
    positive = values.clamp(min=0)
    return positive / positive.sum(dim=-1, keepdim=True)


def check_classes(place: Place, classes: int, data: Mapping[str, Any] | None) -> None:
    """Refuse labels of another number of classes than the data, naming both."""
    if data is not None and classes != len(data["classes"]):
        raise BundleError(
            f"{place} has {classes} classes, the data has {len(data['classes'])}", field=place.section, hint=RELABEL
        )


def check_size(place: Place, size: Any, data: Mapping[str, Any] | None) -> None:
    """Refuse labels made for images of another size, naming both."""
    if data is not None and size != data["height"]:
        raise BundleError(
            f"{place} was made for images of {size} px, these have {data['height']}", field=place.section, hint=RELABEL
        )


def identity_of(data: Mapping[str, Any] | None) -> dict[str, Any]:
    """What labels record of the data they were made for, beside the images: classes in order, input space."""
    return {} if data is None else {"classes": list(data["classes"]), "space": dict(data["space"])}


def check_identity(place: Place, parameters: Mapping[str, Any], data: Mapping[str, Any] | None) -> None:
    """Refuse labels made under another class order, normalisation or whitening than the images have, naming both.

    Labels that do not say, which older versions wrote, pass.
    """
    for key, ours in identity_of(data).items():
        theirs = parameters.get(key, ours)
        if theirs != ours:
            raise BundleError(
                f"{place} was made for {key} {_short(theirs)}, the images have {_short(ours)}",
                field=place.section,
                hint=RELABEL,
            )


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 160 else text[:157] + "..."


def check_views(place: Place, kind: Any, parameters: Mapping[str, Any], views: int) -> None:
    """Refuse labels whose parameters do not make the views that were labelled.

    Args:
        place: of the labels, in messages.
        kind: made from the section's parameters.
        parameters: the section's.
        views: labelled views per image, before any were pruned.
    """
    if kind.view_count != views:
        raise BundleError(
            f"{place} has {views} views, its parameters make {kind.view_count}", field=place.section, hint=RELABEL
        )
    try:
        wanted = kind.parameters(parameters.get("size"))
    except UsageError as error:
        raise BundleError(f"{place}: {error.message}", field=place.section, hint=RELABEL) from error
    for key, value in wanted.items():
        if parameters.get(key) != value:
            raise BundleError(
                f"{place} was made with '{key}' {parameters.get(key)!r}, this ddlabel makes {value!r}",
                field=place.section,
                hint=RELABEL,
            )


def check_kept(place: Place, before: Tensor | None, after: Tensor | None) -> None:
    """Refuse a codec that would keep other views of pruned labels than they have.

    Args:
        place: of the labels, in messages.
        before: (n, v') views that the labels have, or None for all of them.
        after: those that the codec keeps.

    Raises:
        UsageError: the labels lack views that the codec needs.
    """
    if before is not None and (after is None or not torch.equal(before, after)):
        raise UsageError(
            f"{place} holds pruned labels, which another codec or another choice of views cannot store",
            field="codec",
            hint="keep '--codec prune' with its 'keep' and 'seed' (its 'values' may change), or run "
            "'ddlabel augment-labels' again",
        )
