"""Four bits a value: uniform steps between the smallest, or a floor, and largest value of each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import ClippedAffine

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class Affine4(ClippedAffine):
    """Codes 0 to 15 packed to whole bytes per view, its smallest value and step as float16: 4 k + 32 bits a view."""

    bits: ClassVar[int] = 4


CODEC = Affine4
