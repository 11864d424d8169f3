"""Students of RDED with a live teacher: knowledge distillation on every augmented batch (arXiv:2312.03526)."""

from __future__ import annotations

from dataclasses import dataclass

from ..training import Recipe
from ._protocol import LossChoice, Student
from .rded import rded_recipe

__all__ = ["PROTOCOL"]


@dataclass(frozen=True)
class KdProtocol:
    """RDED's post-training whole: patches shuffled, crops of 1/F to all, flips, CutMix, and KL to a live teacher.

    The teacher answers every batch after its augmentation, so that a student learns from far more labels than any
    bundle stores: no student of this protocol is compliant. KL at T = 20 with CutMix, 4 with Mixup, without T^2.

    Differs from the authors' code in: what `rded` differs in, except that labels, CutMix and the shuffling of patches
    are theirs: test images are resized to s and cropped as the data set loads them, where the code resizes them to
    s // 7 * 8 and crops; the student is not run a second time on each batch, in training mode, for its statistics, and
    no option does so; a mixed batch is a copy.
    """

    test_evaluations: int = 6
    online: bool = True

    def recipe(self, student: Student) -> Recipe:
        """That of `rded`; patches are shuffled where a live teacher answers."""
        return rded_recipe(student)

    def loss(self, student: Student, labels: str) -> LossChoice | None:
        """KL where a live teacher answers."""
        del student
        return LossChoice("kl") if labels == "online" else None


PROTOCOL = KdProtocol()
