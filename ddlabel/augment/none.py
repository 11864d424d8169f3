"""No augmentation: images pass as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from ._augment import Step

__all__ = ["AUGMENT"]


@dataclass(frozen=True)
class NoAugmentation:
    """The identity."""

    flip: bool = True

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """Nothing is drawn."""
        del n, height, width, generator, siamese
        return ()


AUGMENT = NoAugmentation
