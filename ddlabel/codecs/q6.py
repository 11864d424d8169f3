"""Six bits a value: uniform steps between the smallest, or a floor, and largest value of each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import ClippedAffine

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class Affine6(ClippedAffine):
    """Codes 0 to 63 packed to whole bytes per view, its smallest value and step as float16: 6 k + 32 bits a view."""

    bits: ClassVar[int] = 6


CODEC = Affine6
