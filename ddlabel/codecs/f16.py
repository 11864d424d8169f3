"""Float16 label values, rounded to nearest: what FKD and SRe2L store (arXiv:2306.13092)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._codec import MAX_F16, Codec, Shape, check_encodable, check_parts

__all__ = ["CODEC", "RELATIVE", "SUBNORMAL"]

RELATIVE = 2.0**-11
"""Half a unit in the last place of float16."""
SUBNORMAL = 2.0**-25
"""Half the spacing of float16 near zero."""


@dataclass(frozen=True, kw_only=True)
class Float16(Codec):
    """16 bits a value, 11 of them precision."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Part `values` (n, v, k) float16."""
        check_encodable(values, MAX_F16)
        return {"values": values.to(torch.float16)}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """The values."""
        check_parts(parts, {"values": (torch.float16, shape)})
        return parts["values"].float()

    def tolerance(self, values: Tensor) -> Tensor:
        """Half a unit in the last place of the largest value."""
        return values.abs().amax(dim=-1).double() * RELATIVE + SUBNORMAL


CODEC = Float16
