"""Float32 label values, as they are: the reference for every other codec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._codec import Codec, Shape, check_encodable, check_parts

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class Float32(Codec):
    """32 bits a value, exact."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Part `values` (n, v, k) float32."""
        check_encodable(values)
        return {"values": values.float()}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """The values."""
        check_parts(parts, {"values": (torch.float32, shape)})
        return parts["values"]

    def tolerance(self, values: Tensor) -> Tensor:
        """Nothing is lost."""
        return torch.zeros(values.shape[:2], dtype=torch.float64)


CODEC = Float32
