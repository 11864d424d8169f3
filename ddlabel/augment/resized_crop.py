"""Random crops of half to all of the image, resized to its size, and mirroring: RDED's augmentation of large images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from ._augment import Step, draw_crops, draw_step

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class ResizedCrop:
    """RandomResizedCrop with areas of 1/F to 1, then horizontal flip, per sample.

    Named `resized-crop` for F = 2, RDED's usual mosaics, `resized-crop-F` for others.

    Differs from the authors' code in: it acts on images in model-input space; the antialiasing asked for there never
    acts, because crops only grow. RDED's shuffling of mosaic patches is no part of it.
    """

    flip: bool = True
    factor: int = 2
    """F, patches per axis."""

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """Both operations, per sample, or shared when siamese."""
        count = 1 if siamese else n
        crops = Step("resized-crop", {"crop": draw_crops(count, height, width, 1 / self.factor, generator)})
        return (crops, *((draw_step("flip", count, height, width, generator),) if self.flip else ()))


AUGMENT = ResizedCrop
