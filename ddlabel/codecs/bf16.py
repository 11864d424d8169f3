"""Bfloat16 label values, rounded to nearest: the range of float32 in half the bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._codec import Codec, Shape, check_encodable, check_parts

__all__ = ["CODEC"]

LARGEST = 3.38e38
"""Below what rounds to infinity."""


@dataclass(frozen=True, kw_only=True)
class BFloat16(Codec):
    """16 bits a value, 8 of them precision."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Part `values` (n, v, k) bfloat16."""
        check_encodable(values, LARGEST)
        return {"values": values.to(torch.bfloat16)}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """The values."""
        check_parts(parts, {"values": (torch.bfloat16, shape)})
        return parts["values"].float()

    def tolerance(self, values: Tensor) -> Tensor:
        """Half a unit in the last place of the largest value; 2^-134 near zero, more where subnormals are flushed."""
        return values.abs().amax(dim=-1).double() * 2.0**-8 + 2.0**-126


CODEC = BFloat16
