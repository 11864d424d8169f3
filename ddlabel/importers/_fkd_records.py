"""One batch of SRe2L's relabelling: `[coordinates, mirrored, partner, lambda, box, logits]` in a file of torch.save."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BundleError
from ._sources import Sources
from ._torch_file import read_torch

__all__ = ["Record", "read_record"]

TOLERANCE = 0.01
"""Pixels by which a stored fraction of the side may be off a whole pixel."""


@dataclass(frozen=True)
class Record:
    """A batch of labelled views, in the order of the batch."""

    crop: Tensor
    """(b, 4) int64 top, left, height, width in pixels."""
    flip: Tensor
    """(b,) int64, 0 or 1."""
    partner: Tensor | None
    """(b,) int64 places in the batch that are mixed in."""
    mix: str
    """none, cutmix or mixup."""
    share: float
    """How much of a view is the image itself, in [0, 1]."""
    box: tuple[int, int, int, int]
    """With cutmix top, left, height and width of what the partner covers."""
    logits: Tensor
    """(b, k) float16 or float32, finite."""


def read_record(sources: Sources, path: Path, name: str, *, side: int) -> Record:
    """Read and check one batch.

    Args:
        sources: where the file is entered.
        path: the file.
        name: how messages and the history call it.
        side: of the pictures in pixels.

    Raises:
        BundleError: damaged, objects that would have to be unpickled, or something that cannot be replayed.
    """
    content = read_torch(sources, path, name=name)
    if not isinstance(content, list | tuple) or len(content) != 6:
        raise BundleError(f"{name}: no list of six parts, expected a record of SRe2L's relabelling")
    coordinates, mirrored, partner, weight, box, logits = content
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point() or not len(logits):
        raise BundleError(f"{name}: its last part is no (b, k) logits")
    if not bool(torch.isfinite(logits).all()):
        raise BundleError(f"{name}: logits hold NaN or infinity")
    count = len(logits)
    mix = "none" if partner is None else "mixup" if box is None else "cutmix"
    if mix == "none" and (weight is not None or box is not None):
        raise BundleError(f"{name}: the lambda or box of a mix, but no partners")
    corners = _box(box, side, name) if mix == "cutmix" else (0, 0, 0, 0)
    share = 1.0
    if mix == "cutmix":
        share = 1 - corners[2] * corners[3] / side**2
        if share < _share(weight, name) - TOLERANCE:  # the box is cut at the edges, never larger
            raise BundleError(f"{name}: its box covers {1 - share:.2f} of a view, its lambda leaves {1 - weight:.2f}")
    elif mix == "mixup":
        share = _share(weight, name)
    return Record(
        crop=_crops(coordinates, count, side, name),
        flip=_whole(mirrored, count, 2, f"{name}: mirrored"),
        partner=None if partner is None else _whole(partner, count, count, f"{name}: partner"),
        mix=mix,
        share=share,
        box=corners,
        logits=logits if logits.dtype == torch.float16 else logits.float(),
    )


def _crops(coordinates: Any, count: int, side: int, name: str) -> Tensor:
    """Fractions of the side as whole pixels."""
    if not isinstance(coordinates, Tensor) or tuple(coordinates.shape) != (count, 4):
        raise BundleError(f"{name}: its first part is no (b, 4) coordinates of crops")
    pixels = coordinates.double() * side
    whole = pixels.round()
    inside = (whole >= 0).all(dim=1) & (whole[:, 2:] >= 1).all(dim=1) & (whole[:, :2] + whole[:, 2:] <= side).all(dim=1)
    bad = ~(inside & ((pixels - whole).abs() <= TOLERANCE).all(dim=1))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise BundleError(
            f"{name}: crop {[round(float(value), 2) for value in pixels[row]]} of view {row} is no area of whole "
            f"pixels of pictures of {side} px, so that it cannot be replayed",
            hint="give the pictures at the size at which they were labelled",
        )
    return whole.to(torch.int64)


def _whole(value: Any, count: int, limit: int, what: str) -> Tensor:
    tensor = (
        torch.tensor(value) if isinstance(value, list) and all(type(item) in {bool, int} for item in value) else value
    )
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != (count,) or tensor.is_floating_point():
        raise BundleError(f"{what} is no list of {count} whole numbers")
    whole = tensor.to(torch.int64)
    if int(whole.min()) < 0 or int(whole.max()) >= limit:
        raise BundleError(f"{what} holds numbers outside 0 to {limit - 1}")
    return whole


def _box(box: Any, side: int, name: str) -> tuple[int, int, int, int]:
    """First row, first column, row and column after the last, as top, left, height, width."""
    whole = isinstance(box, list | tuple) and len(box) == 4 and all(type(edge) is int for edge in box)
    if not whole or not (0 <= box[0] <= box[2] <= side and 0 <= box[1] <= box[3] <= side):
        raise BundleError(f"{name}: its box does not lie in pictures of {side} px")
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


def _share(weight: Any, name: str) -> float:
    if not isinstance(weight, float) or not 0 <= weight <= 1:
        raise BundleError(f"{name}: its lambda is no number from 0 to 1")
    return weight
