"""Students of class-incremental learning: those of DM, fresh at every step (GDumb; arXiv:2110.04181)."""

from __future__ import annotations

from dataclasses import dataclass

from ..training import Recipe
from ._protocol import Student
from .dm import PROTOCOL as DM

__all__ = ["PROTOCOL"]


@dataclass(frozen=True)
class ContinualProtocol:
    """As `dm`, in class-incremental steps: 5 unless --incremental says others.

    Classes come in random orders. At every step a fresh net, with outputs for all classes, is trained on the stored
    images of the classes so far and scored on the test images of these classes, by the largest of all its outputs.
    Other protocols take steps by --incremental as well, `gift` for GIFT's.

    Differs from the authors' code in: the last epoch is reported and seeds are explicit; class orders are ours.
    """

    test_evaluations: int = 1

    def recipe(self, student: Student) -> Recipe:
        """That of `dm`, the same for every net and memory."""
        return DM.recipe(student)


PROTOCOL = ContinualProtocol()
