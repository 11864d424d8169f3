"""RDED's augmentation of mosaics: patches in another order, crops of 1/F to all, mirroring (arXiv:2312.03526)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from ._augment import Step, draw_crops, draw_step
from ._shuffle import draw_orders, whole_side

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class ShufflePatches:
    """ShufflePatches(F), RandomResizedCrop with areas of 1/F to 1, then horizontal flip, all per sample.

    Named `shuffle-patches` for F = 2, `shuffle-patches-F` for others. Where F does not divide the side, the pixels
    beyond the last whole strip are dropped: crops are drawn inside the strips, and resized to the side.

    Differs from the authors' code in: it acts on images in model-input space; the antialiasing asked for there never
    acts, because crops only grow.
    """

    flip: bool = True
    factor: int = 2
    """F, strips per axis."""

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """All three operations, per sample, or shared when siamese."""
        count, factor = (1 if siamese else n), self.factor
        orders = Step("shuffle", draw_orders(count, factor, generator))
        inside = whole_side(height, factor), whole_side(width, factor)
        crops = Step("resized-crop", {"crop": draw_crops(count, *inside, 1 / factor, generator)})
        return (orders, crops, *((draw_step("flip", count, height, width, generator),) if self.flip else ()))


AUGMENT = ShufflePatches
