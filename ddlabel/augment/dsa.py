"""DSA: one random operation family per batch (Zhao & Bilen, ICML 2021, arXiv:2102.08259)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from ._augment import FAMILIES, Step, draw_step

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class SiameseAugmentation:
    """One of color, crop, cutout, flip, scale, rotate, drawn per batch; its parameters per sample.

    Differs from the authors' code in: parameters come from an explicit generator and form a record, where the code
    reseeds the global generator; nothing else.
    """

    flip: bool = True
    """False drops the flip family, as the authors do for digits."""

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """The family is shared by the batch; parameters are per sample, or shared when siamese."""
        names = [name for name in FAMILIES if self.flip or name != "flip"]
        family = names[int(torch.randint(len(names), (1,), generator=generator))]
        return (draw_step(family, 1 if siamese else n, height, width, generator),)


AUGMENT = SiameseAugmentation
