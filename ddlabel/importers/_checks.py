"""What must hold of images and labels of any foreign file, before anything is made of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import BundleError

__all__ = [
    "DROP",
    "both_labels",
    "check_step_size",
    "distributions",
    "hard_labels",
    "images_of",
    "labels_of",
    "step_size",
]

DROP = ("take", "drop")
"""Of a learned step size."""

CHANNELS = (1, 3)
MAX_SIDE = 2**16
LEAST, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
"""Numbers above 0 that float32 holds."""
ROW_TOLERANCE = 1e-3
"""How far a row may be from summing to 1 to count as a distribution."""


def images_of(value: Any, name: str) -> Tensor:
    """Images (n, c, h, w): uint8 pixels, or finite float32.

    Raises:
        BundleError: anything else.
    """
    if (
        not isinstance(value, Tensor)
        or value.ndim != 4
        or not (value.is_floating_point() or value.dtype == torch.uint8)
    ):
        raise BundleError(f"{name}: {_what(value)} where images belong, expected float or uint8 of shape (n, c, h, w)")
    count, channels, height, width = value.shape
    if not count or channels not in CHANNELS or not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise BundleError(f"{name}: images of shape {tuple(value.shape)}, expected (n, 1 or 3, h, w) and at least one")
    if value.dtype == torch.uint8:
        return value.contiguous()
    images = value.to(torch.float32).contiguous()
    _check_finite(images, name, "image")
    return images


def labels_of(value: Any, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Classes (n,) int64, or soft labels (n, k) float32, and None for the other.

    Raises:
        BundleError: neither.
    """
    if isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point() and value.shape[1] >= 2:
        soft = value.to(torch.float32).contiguous()
        _check_finite(soft, name, "label")
        return None, soft
    return hard_labels(value, name), None


def both_labels(labels: Any, soft: Any, soft_name: str, name: str) -> tuple[Tensor, Tensor]:
    """Classes (n,) int64 beside soft labels (n, k) or (n, 1, k) float32.

    Raises:
        BundleError: the labels are soft too, so that two claim to be the soft ones; or the soft ones are none.
    """
    if isinstance(labels, Tensor) and labels.ndim > 1:
        raise BundleError(f"{name}: both 'labels' and '{soft_name}' hold soft labels", hint="leave one of them out")
    one_view = isinstance(soft, Tensor) and soft.ndim == 3 and soft.shape[1] == 1
    nothing, found = labels_of(soft[:, 0] if one_view else soft, name)
    if found is None or nothing is not None:
        raise BundleError(f"{name}: '{soft_name}' is {_what(soft)}, expected floats of shape (n, k)")
    return hard_labels(labels, name), found


def hard_labels(value: Any, name: str) -> Tensor:
    """Classes (n,) int64; floats that are whole numbers count, as some files have them.

    Raises:
        BundleError: other types, shapes or fractions; negative ones.
    """
    if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype == torch.bool or value.is_complex():
        raise BundleError(f"{name}: {_what(value)} where labels belong, expected (n,) classes or (n, k) soft labels")
    whole = value.double()
    bad = ~torch.isfinite(whole) | (whole != whole.round()) | (whole < 0) | (whole >= 2**31)
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise BundleError(f"{name}: label {float(whole[index]):g} of image {index}, expected a class number from 0")
    return whole.to(torch.int64)


def step_size(value: Any, name: str, lr: str) -> tuple[float | None, tuple[str, ...]]:
    """A learned step size, and a note where `lr` is `drop`, so that it is left out.

    Raises:
        BundleError: it is taken, and no step size.
    """
    if value is None or lr == "drop":
        return None, () if value is None else (f"{name}: its step size is left out, as --set lr=drop says",)
    return check_step_size(value, name), ()


def check_step_size(value: Any, name: str) -> float:
    """A learned step size as a number.

    Raises:
        BundleError: no single number above 0 that is neither 0 nor infinity as float32.
    """
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not LEAST <= number <= LARGEST:
        what = f"a step size of {number!s:.40}" if isinstance(number, float) else f"{_what(value)} as its step size"
        if type(number) is int:
            what = "a step size of 0" if not number else f"a step size {'above 1e38' if number > 0 else 'below 0'}"
        raise BundleError(
            f"{name}: {what}, expected one number above 0 that float32 holds", hint="leave it out with --set lr=drop"
        )
    return float(number)


def distributions(soft: Tensor) -> bool:
    """Whether all rows of soft labels (n, k) are distributions."""
    sums = soft.double().sum(dim=1)
    return bool((soft >= 0).all()) and bool(((sums - 1).abs() < ROW_TOLERANCE).all())


def _check_finite(values: Tensor, name: str, noun: str) -> None:
    bad = ~torch.isfinite(values).flatten(1).all(dim=1)
    if bool(bad.any()):
        raise BundleError(f"{name}: {noun} {int(bad.nonzero()[0])} holds NaN or infinity, expected finite numbers")


def _what(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {tuple(value.shape)}" if value.ndim else f"a single {kind}"
    return f"a {type(value).__name__}"
