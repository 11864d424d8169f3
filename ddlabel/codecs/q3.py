"""Three bits a value: uniform steps between the smallest, or a floor, and largest value of each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import ClippedAffine

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class Affine3(ClippedAffine):
    """Codes 0 to 7 packed to whole bytes per view, its smallest value and step as float16: 3 k + 32 bits a view."""

    bits: ClassVar[int] = 3


CODEC = Affine3
