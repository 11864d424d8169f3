"""GIFT's composite of DSA operations, much stronger than one of them (Shang et al., 2024, arXiv:2405.14736)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from ._augment import Step, draw_step

__all__ = ["AUGMENT"]

GEOMETRY = ("crop", "scale", "rotate")


@dataclass(frozen=True)
class CompositeAugmentation:
    """Flip, color, one of crop, scale and rotate, then cutout, every batch.

    Differs from the authors' code in: parameters come from an explicit generator; nothing else (grids use torch's
    default corner convention, as there).
    """

    flip: bool = True

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """All parameters per sample, or shared when siamese; the geometric operation is shared by the batch."""
        geometry = GEOMETRY[int(torch.randint(len(GEOMETRY), (1,), generator=generator))]
        families = (*(("flip",) if self.flip else ()), "color", geometry, "cutout")
        count = 1 if siamese else n
        return tuple(draw_step(name, count, height, width, generator, align_corners=False) for name in families)


AUGMENT = CompositeAugmentation
