"""Eight bits a value: uniform steps between the smallest and largest value of each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import Affine

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class Affine8(Affine):
    """Codes 0 to 255 and, per view, the smallest value and the step as float16: 8 k + 32 bits a view."""

    bits: ClassVar[int] = 8


CODEC = Affine8
