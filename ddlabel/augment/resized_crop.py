"""Random crops of half to all of the image, resized to its size, and mirroring: RDED's augmentation of large images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from ._augment import Step, draw_step

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class ResizedCrop:
    """RandomResizedCrop with areas of 1/2 to 1 (RDED's 1/F for mosaics of F = 2), then horizontal flip, per sample.

    Differs from the authors' code in: it acts on images in model-input space; the antialiasing asked for there never
    acts, because crops only grow. RDED's shuffling of mosaic patches is no part of it.
    """

    flip: bool = True

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """Both operations, per sample, or shared when siamese."""
        count = 1 if siamese else n
        families = ("resized-crop", *(("flip",) if self.flip else ()))
        return tuple(draw_step(name, count, height, width, generator) for name in families)


AUGMENT = ResizedCrop
