"""Eight bits a value: uniform steps between the smallest and largest value of each view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BundleError
from ._codec import MAX_F16, check_encodable, check_parts
from .f16 import RELATIVE, SUBNORMAL

__all__ = ["CODEC"]

LEVELS = 255
FINEST = 2.0**-18
"""Smallest step relative to the smallest value. Far below the rounding of that value to float16, far above what
float32 can resolve beside it: decoded values, which are float32, still tell their step. Views flatter than 255 such
steps do not reach code 255."""


@dataclass(frozen=True, kw_only=True)
class Affine8:
    """Codes 0 to 255 and, per view, the smallest value and the step as float16: 8 k + 32 bits a view.

    The smallest value always has code 0 and the largest 255, so that encoding what was decoded gives the same codes.
    """

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `codes` (m, k) uint8 and `scale` (m, 2) float16: smallest value, step."""
        check_encodable(values, MAX_F16)
        low, step = _low_and_step(values)
        scale = torch.cat([low, step], dim=1).to(torch.float16) + 0.0  # no -0, which decoding would lose
        flat = scale[:, 1:] == 0
        codes = ((values.double() - low) / step.masked_fill(flat, 1)).masked_fill(flat, 0).round()
        return {"codes": codes.to(torch.uint8), "scale": scale}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """smallest + code * step."""
        check_parts(parts, {"codes": (torch.uint8, None), "scale": (torch.float16, 2)})
        scale = parts["scale"].double()
        if not bool(torch.isfinite(scale).all()) or bool((scale[:, 1] < 0).any()):
            raise BundleError("q8 labels: a scale is not finite or negative", field="scale")
        return (scale[:, :1] + parts["codes"].double() * scale[:, 1:]).float()

    def tolerance(self, values: Tensor) -> Tensor:
        """Half a step, plus what float16 rounds off the step (255 times) and the smallest value, and float32 off both.

        A step that float16 rounds to 0 loses the span of the view, at most 255 times `SUBNORMAL`.
        """
        low, step = (column[:, 0] for column in _low_and_step(values))
        rounding = (low.abs() + LEVELS * step) * RELATIVE + (LEVELS + 1) * SUBNORMAL
        return step / 2 + rounding + (low.abs() + LEVELS * step) * 2.0**-23


def _low_and_step(values: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest value and step of each view before rounding, (m, 1) float64."""
    exact = values.double()
    low = exact.amin(dim=1, keepdim=True)
    span = exact.amax(dim=1, keepdim=True) - low
    finest = (low.to(torch.float16).double().abs() * FINEST).to(torch.float16).double()
    return low, torch.maximum(span / LEVELS, finest)


CODEC = Affine8
