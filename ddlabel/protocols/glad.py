"""Students of GLaD and LADD: warm-up, cosine, averaged weights (Cazenavette et al., CVPR 2023, arXiv:2305.01649)."""

from __future__ import annotations

from dataclasses import dataclass

from ..training import Recipe
from ._protocol import Student

__all__ = ["PROTOCOL"]


@dataclass(frozen=True)
class GladProtocol:
    """SGD 1e-3 (VGG11 1e-4), momentum 0.9, weight decay 5e-4, warm-up then cosine, EMA weights, one-op DSA.

    LADD (arXiv:2409.16239) evaluates all its cross-architecture tables this way.

    Differs from the authors' code in: seeds are explicit; nothing else.
    """

    test_evaluations: int = 1

    def recipe(self, student: Student) -> Recipe:
        """Step size by the family of the net."""
        return Recipe(
            optimizer="sgd",
            lr=1e-4 if student.arch.startswith("vgg11") else 1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="glad",
            epochs=1000,
            batch=256,
            augment="dsa",
            ema=True,
        )


PROTOCOL = GladProtocol()
