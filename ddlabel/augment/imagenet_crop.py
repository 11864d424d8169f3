"""Random crops of 0.08 to all of the image, resized to its size, and mirroring: the usual augmentation on ImageNet."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from ._augment import Step, draw_step

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class ImagenetCrop:
    """RandomResizedCrop with areas of 0.08 to 1, then horizontal flip, per sample: the crops of `fkd` labels, unmixed.

    Differs from the authors' code in: it acts on images in model-input space.
    """

    flip: bool = True

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """Both operations, per sample, or shared when siamese."""
        count = 1 if siamese else n
        families = ("imagenet-crop", *(("flip",) if self.flip else ()))
        return tuple(draw_step(name, count, height, width, generator) for name in families)


AUGMENT = ImagenetCrop
