"""What a label codec is, and how its loss is measured.

A codec turns label values (m, k) float32, one row per view, into named tensors with m rows each, and back. It is
lossless to its own quantised values, so encoding twice changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import BundleError, UsageError

__all__ = ["Codec", "check_encodable", "check_parts", "fidelity"]

MAX_F16 = 60_000.0
"""Largest magnitude that codecs with float16 parts accept; float16 itself ends at 65,504."""


class Codec(Protocol):
    """One way of storing label values."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Values (m, k) float32 as tensors of m rows.

        Raises:
            UsageError: values the codec cannot hold, naming the row.
        """
        ...

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Values (m, k) float32.

        Raises:
            BundleError: the codec did not write such parts.
        """
        ...

    def tolerance(self, values: Tensor) -> Tensor:
        """(m,) proven bound of |decoded - original| per row."""
        ...


def check_encodable(values: Tensor, limit: float | None = None) -> None:
    """Refuse values that are not finite, or beyond what a codec holds.

    Raises:
        UsageError: naming the first such row.
    """
    bad = ~torch.isfinite(values) if limit is None else ~(values.abs() <= limit)
    if bool(bad.any()):
        row, column = (int(index) for index in bad.nonzero()[0])
        expected = "finite values" if limit is None else f"finite values within ±{limit:g}"
        raise UsageError(
            f"label view {row}, class {column} is {float(values[row, column])}, expected {expected}",
            field="codec",
            hint="check the teacher, or use --codec f32",
        )


def check_parts(parts: Mapping[str, Tensor], expected: Mapping[str, tuple[torch.dtype, int | None]]) -> None:
    """Refuse parts that a codec did not write.

    Args:
        parts: by name, m rows each.
        expected: dtype and number of columns of each part; None columns for one per class.

    Raises:
        BundleError: naming the part, or the parts there are.
    """
    if parts.keys() != expected.keys():
        raise BundleError(f"its parts are {', '.join(sorted(parts)) or 'none'}, expected {', '.join(expected)}")
    for name, (dtype, columns) in expected.items():
        part = parts[name]
        if part.dtype != dtype or part.ndim != 2 or columns not in {None, part.shape[1]}:
            wide = "a value per class" if columns is None else f"{columns} values"
            raise BundleError(
                f"part '{name}' is {part.dtype} of shape {tuple(part.shape)}, expected {dtype}, {wide} in each row",
                field=name,
            )


def fidelity(original: Tensor, decoded: Tensor, domain: str) -> dict[str, float]:
    """What a codec lost, as means over m views.

    Args:
        original, decoded: (m, k) float32 label values.
        domain: their domain; divergences are of the distributions they stand for.

    Returns:
        KL(original || decoded) in nats at T = 1 and 20, cosine of the values, top-1 agreement, absolute error of the
        top-1 probability, change of entropy in nats. The same on any number of threads: they are part of the bundle.
    """
    ours, theirs = original.double(), decoded.double()
    result = {f"kl_t{temperature}": _divergence(ours, theirs, domain, temperature) for temperature in (1, 20)}
    before, after = _log_probabilities(ours, domain, 1), _log_probabilities(theirs, domain, 1)
    top = before.argmax(dim=1, keepdim=True)
    return result | {
        "cosine": _mean(functional.cosine_similarity(ours, theirs, dim=1)),
        "top1_agreement": _mean((ours.argmax(dim=1) == theirs.argmax(dim=1)).double()),
        "top1_probability_error": _mean((before.gather(1, top).exp() - after.gather(1, top).exp()).abs().flatten()),
        "entropy_shift": _mean(_entropy(after) - _entropy(before)),
    }


def _mean(rows: Tensor) -> float:
    """Exactly rounded, where torch's sum over many rows depends on how threads share them."""
    return math.fsum(rows.tolist()) / max(1, len(rows))


def _log_probabilities(values: Tensor, domain: str, temperature: int) -> Tensor:
    if domain in {"prob", "unit"}:
        values = values.clamp(min=1e-12).log()
    return functional.log_softmax(values / temperature, dim=1)


def _divergence(ours: Tensor, theirs: Tensor, domain: str, temperature: int) -> float:
    before = _log_probabilities(ours, domain, temperature)
    after = _log_probabilities(theirs, domain, temperature)
    return max(0.0, _mean((before.exp() * (before - after)).sum(dim=1)))


def _entropy(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)
