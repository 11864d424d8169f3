"""Random translation by up to an eighth of the side with zero fill, and mirroring: the usual CIFAR augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from ._augment import Step, draw_step

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class CropFlip:
    """Pad-and-crop (4 px at 32) and horizontal flip with probability one half, per sample."""

    flip: bool = True

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """Both operations, per sample, or shared when siamese."""
        count = 1 if siamese else n
        families = ("crop", *(("flip",) if self.flip else ()))
        return tuple(draw_step(name, count, height, width, generator) for name in families)


AUGMENT = CropFlip
