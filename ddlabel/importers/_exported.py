"""Labels that `ddlabel export` wrote as arrays or columns, as the bundle had them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..errors import BundleError
from ..interchange import array_of_labels, domain_of_labels, draws_of_labels, norm_of_labels, view_ids_of_labels
from ..labels._kind import PRIVILEGED
from ..labels._replay import SHAPES
from ._importer import Exported

__all__ = ["LABELS", "exported_labels", "left_out"]

HARD, LABELS = "hard", array_of_labels("")
"""Labels of everybody; how the names of all others begin."""
FEATURE = "feature"
"""The domain of labels that say what a layer gives."""


def exported_labels(
    said: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Tensor], count: int, name: str
) -> tuple[tuple[Exported, ...], tuple[str, ...]]:
    """Every kind that a description says, and notes on what is left out.

    Args:
        said: `labels` of the description, by kind.
        arrays: what the file holds, by name; of rows of any shape that has as many numbers.
        count: images, n.
        name: of the file, for messages.

    Raises:
        BundleError: labels that are not there, or not what the description says.
    """
    found, notes, taken = [], [], set[str]()
    for kind, entry in sorted(said.items()):
        if kind == HARD:
            continue
        if not _plugins.is_known("labels", kind):
            notes.append(f"{name}: labels of kind '{kind}', which this ddlabel does not know, are left out")
            taken |= {key for key in arrays if key.startswith(array_of_labels(kind))}
            continue
        labels = _labels(kind, entry, arrays, count, name)
        taken |= _names(kind, entry, labels)
        if labels.parameters.get("norm") == "zscore" and labels.norm.keys() != {"mean", "scale"}:
            notes.append(
                f"{name}: {kind} labels are left out, the norm that they are compared under is not in the file"
            )
            continue
        found.append(labels)
    return tuple(found), (*notes, *left_out([key for key in arrays if key not in taken], name))


def left_out(keys: Sequence[str], name: str) -> tuple[str, ...]:
    """A note that names the labels that nobody asked for or described."""
    shown = ", ".join(ascii(key)[1:-1][:60] for key in sorted(keys)[:20])
    return (f"{name}: left out: {shown}",) if keys else ()


def _labels(kind: str, entry: Mapping[str, Any], arrays: Mapping[str, Tensor], count: int, name: str) -> Exported:
    place = f"{name}: {kind} labels"
    values = arrays.get(entry.get("in", array_of_labels(kind)))
    if values is None or "domain" not in entry:
        raise BundleError(f"{place} are described, but {'not there' if values is None else 'without their domain'}")
    shape = tuple(entry.get("shape") or _usual(values))
    is_feature = kind in PRIVILEGED
    if (
        len(shape) < 3
        or shape[0] != count
        or (len(shape) > 3) > is_feature
        or (entry["domain"] == FEATURE) != is_feature
    ):
        raise BundleError(f"{place} of shape {shape} and domain '{entry['domain']}' are none of {count} images")
    values = _shaped(values, shape, place).to(torch.float32)
    if not values.numel() or not bool(torch.isfinite(values).all()):
        raise BundleError(f"{place}: values that are not finite, or none")
    return Exported(
        kind=kind,
        values=values,
        domain=entry["domain"],
        parameters=entry.get("parameters", {}),
        codec=entry.get("codec", {}),
        teacher=tuple(entry.get("teacher", ())),
        refined=entry.get("refined"),
        draws=_draws(kind, arrays, count, place),
        view_ids=_view_ids(kind, arrays, shape, place),
        norm=_norm(kind, arrays, shape[2:], place),
    )


def _names(kind: str, entry: Mapping[str, Any], labels: Exported) -> set[str]:
    """Names of all arrays of one kind."""
    return {
        entry.get("in", array_of_labels(kind)),
        domain_of_labels(kind),
        view_ids_of_labels(kind),
        *(draws_of_labels(kind, draw) for draw in labels.draws),
        *(norm_of_labels(kind, part) for part in labels.norm),
    }


def _usual(values: Tensor) -> tuple[int, ...]:
    """One view, where there is no axis of views."""
    return (len(values), 1, values.shape[1]) if values.ndim == 2 else tuple(values.shape)


def _shaped(values: Tensor, shape: tuple[int, ...], place: str, *, whole: bool = False) -> Tensor:
    """Values of as many numbers, in that shape; whole ones as int64."""
    if not values.ndim or values.numel() != math.prod(shape) or len(values) != shape[0]:
        raise BundleError(f"{place} are of shape {tuple(values.shape)}, which is not the {shape} that is said of them")
    if not whole:
        return values.reshape(shape).contiguous()
    numbers = values.to(torch.int64)
    if not torch.equal(numbers.to(values.dtype), values):
        raise BundleError(f"{place}: fractions where whole numbers belong")
    return numbers.reshape(shape)


def _draws(kind: str, arrays: Mapping[str, Tensor], count: int, place: str) -> dict[str, Tensor]:
    prefix, draws = draws_of_labels(kind), {}
    for key in [key for key in arrays if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        size = math.prod(SHAPES.get(name, (0,)))
        views = arrays[key].numel() // (size * count) if size else 0
        if not views:
            raise BundleError(f"{place} have draws {ascii(name)[:40]}, expected some of {', '.join(SHAPES)}")
        draws[name] = _shaped(arrays[key], (count, views, *SHAPES[name]), f"{place}: draws '{name}'", whole=True)
    return draws


def _view_ids(kind: str, arrays: Mapping[str, Tensor], shape: tuple[int, ...], place: str) -> Tensor | None:
    ids = arrays.get(view_ids_of_labels(kind))
    return None if ids is None else _shaped(ids, shape[:2], f"{place}: numbers of views", whole=True)


def _norm(kind: str, arrays: Mapping[str, Tensor], shape: tuple[int, ...], place: str) -> dict[str, Tensor]:
    found = {part: arrays.get(norm_of_labels(kind, part)) for part in ("mean", "scale")}
    norm = {part: values.to(torch.float32) for part, values in found.items() if values is not None}
    for part, values in norm.items():
        bad = tuple(values.shape) != shape or not bool(torch.isfinite(values).all())
        if bad or (part == "scale" and not bool((values > 0).all())):
            raise BundleError(f"{place}: the {part} of their norm is of shape {tuple(values.shape)}, or impossible")
    return norm
