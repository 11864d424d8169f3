"""Students of MTT and FTD: as `dm`, with the learned step size (Cazenavette et al., CVPR 2022, arXiv:2203.11932)."""

from __future__ import annotations

from dataclasses import dataclass

from ..training import Recipe
from ._protocol import Student

__all__ = ["PROTOCOL"]

INITIAL_LR = 0.01
"""Step size of a bundle that learned none: the value MTT starts from."""


@dataclass(frozen=True)
class TrajectoryMatchingProtocol:
    """SGD with the bundle's learned step size, momentum 0.9, weight decay 5e-4, batch 256, 1000 (+1) epochs, DSA.

    Differs from the authors' code in: the last epoch of the stored images is reported, where the paper takes the
    largest test accuracy over all checkpoints of the distillation.
    """

    test_evaluations: int = 1

    def recipe(self, student: Student) -> Recipe:
        """The same for every net, apart from the learned step size."""
        return Recipe(
            optimizer="sgd",
            lr=INITIAL_LR if student.learned_lr is None else student.learned_lr,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="step",
            epochs=1000,
            batch=256,
            augment="dsa",
        )


PROTOCOL = TrajectoryMatchingProtocol()
