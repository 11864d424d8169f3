"""Students of DATM and PAD: as `mtt`, in batches of 128, for soft labels (Guo et al., ICLR 2024, arXiv:2310.05773)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..training import Recipe
from ._protocol import Student
from .mtt import PROTOCOL as TRAJECTORY_MATCHING

__all__ = ["PROTOCOL"]


@dataclass(frozen=True)
class DifficultyAlignedProtocol:
    """SGD with the bundle's learned step size, momentum 0.9, weight decay 5e-4, batch 128, 1000 (+1) epochs, DSA.

    Made for the learned labels of the bundle, under the loss `softce`: cross entropy against their softmax, the loss
    that the distillation matched with. PAD (arXiv:2408.03360) scores its sets the same way.

    Differs from the authors' code in: the last epoch of the stored images is reported, where the paper takes the
    largest test accuracy over all checkpoints of the distillation; five students unless told otherwise, where the
    published configurations train one.
    """

    test_evaluations: int = 1

    def recipe(self, student: Student) -> Recipe:
        """The same for every net, apart from the learned step size."""
        return replace(TRAJECTORY_MATCHING.recipe(student), batch=128)


PROTOCOL = DifficultyAlignedProtocol()
