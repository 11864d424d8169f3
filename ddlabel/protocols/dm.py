"""Students of DC, DSA and DM: SGD, step schedule, DSA (Zhao & Bilen, WACV 2023, arXiv:2110.04181)."""

from __future__ import annotations

from dataclasses import dataclass

from ..training import Recipe
from ._protocol import Student

__all__ = ["PROTOCOL"]


@dataclass(frozen=True)
class DistributionMatchingProtocol:
    """SGD 0.01, momentum 0.9, weight decay 5e-4, batch 256, 1000 (+1) epochs, x0.1 after epoch 501, one-op DSA.

    Differs from the authors' code in: the last epoch is reported and seeds are explicit; nothing else.
    """

    test_evaluations: int = 1

    def recipe(self, student: Student) -> Recipe:
        """The same for every net."""
        del student
        return Recipe(
            optimizer="sgd",
            lr=0.01,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="step",
            epochs=1000,
            batch=256,
            augment="dsa",
        )


PROTOCOL = DistributionMatchingProtocol()
