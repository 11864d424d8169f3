"""Float32 label values, as they are: the reference for every other codec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._codec import check_encodable, check_parts

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class Float32:
    """32 bits a value, exact."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Part `values` (m, k) float32."""
        check_encodable(values)
        return {"values": values.float()}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """The values."""
        check_parts(parts, {"values": (torch.float32, None)})
        return parts["values"].float()

    def tolerance(self, values: Tensor) -> Tensor:
        """Nothing is lost."""
        return torch.zeros(len(values), dtype=torch.float64)


CODEC = Float32
