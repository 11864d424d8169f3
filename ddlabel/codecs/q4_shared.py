"""Four bits a value: uniform steps between the smallest, or a floor, and largest value of all views of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._affine import ClippedAffine

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class SharedAffine4(ClippedAffine):
    """Codes 0 to 15 packed to whole bytes per view; smallest value and step per image: 4 k bits a view, 32 an image."""

    bits: ClassVar[int] = 4
    per_image: ClassVar[bool] = True


CODEC = SharedAffine4
