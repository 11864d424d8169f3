"""Mirroring alone: RDED's augmentation of small images, whose crops take the whole image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from ._augment import Step, draw_step

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class Flip:
    """Horizontal flip with probability one half, per sample; nothing where the data may not be mirrored."""

    flip: bool = True

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """Per sample, or shared when siamese."""
        return (draw_step("flip", 1 if siamese else n, height, width, generator),) if self.flip else ()


AUGMENT = Flip
