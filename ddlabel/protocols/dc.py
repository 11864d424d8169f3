"""Students of DC: SGD, step schedule, no augmentation (Zhao, Mopuri & Bilen, ICLR 2021, arXiv:2006.05929)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..training import Recipe
from ._protocol import Student
from .dm import PROTOCOL as DM

__all__ = ["PROTOCOL"]


@dataclass(frozen=True)
class GradientMatchingProtocol:
    """SGD 0.01, momentum 0.9, weight decay 5e-4, batch 256, 300 (+1) epochs, x0.1 after epoch 151, no augmentation.

    Differs from the authors' code in: the last epoch is reported and seeds are explicit; MNIST and ConvNet with batch
    norm are not augmented, where theirs crops, scales, rotates or adds noise and trains for 1000 epochs.
    """

    test_evaluations: int = 1

    def recipe(self, student: Student) -> Recipe:
        """That of `dm`, shorter and without augmentation; the same for every net."""
        return replace(DM.recipe(student), epochs=300, augment="none")


PROTOCOL = GradientMatchingProtocol()
