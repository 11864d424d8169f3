"""Eight bits a value: uniform steps between the smallest and largest value of each view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BundleError
from ._codec import MAX_F16, check_encodable
from .f16 import RELATIVE, SUBNORMAL

__all__ = ["CODEC"]

LEVELS = 255


@dataclass(frozen=True, kw_only=True)
class Affine8:
    """Codes 0 to 255 and, per view, the smallest value and the step as float16: 8 k + 32 bits a view.

    The smallest value always has code 0 and the largest 255, so that encoding what was decoded gives the same codes.
    """

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `codes` (m, k) uint8 and `scale` (m, 2) float16: smallest value, step."""
        check_encodable(values, MAX_F16)
        exact = values.double()
        low = exact.amin(dim=1, keepdim=True)
        span = exact.amax(dim=1, keepdim=True) - low
        scale = torch.cat([low, span / LEVELS], dim=1).to(torch.float16)
        flat = (span == 0) | (scale[:, 1:] == 0)
        codes = ((exact - low) / span.masked_fill(flat, 1) * LEVELS).masked_fill(flat, 0).round()
        return {"codes": codes.to(torch.uint8), "scale": scale}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """smallest + code * step."""
        scale = parts["scale"].double()
        if not bool(torch.isfinite(scale).all()) or bool((scale[:, 1] < 0).any()):
            raise BundleError("q8 labels: a scale is not finite or negative", field="scale")
        return (scale[:, :1] + parts["codes"].double() * scale[:, 1:]).float()

    def tolerance(self, values: Tensor) -> Tensor:
        """Half a step, plus what float16 rounds off the step (255 times) and the smallest value."""
        exact = values.double()
        low, high = exact.amin(dim=1), exact.amax(dim=1)
        span = high - low
        rounding = span * RELATIVE + low.abs() * RELATIVE + (LEVELS + 1) * SUBNORMAL
        single = torch.maximum(low.abs(), high.abs()) * 2.0**-23
        return span / (2 * LEVELS) + rounding + single


CODEC = Affine8
