"""One minus the cosine of student logits and label: GIFT's loss without refinement (arXiv:2405.14736, Table 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..options import opt
from ..refinement import cosine_loss
from ._loss import Targets, direction_of

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """1 - cos(s, t), mean over the batch; neither side is softmaxed.

    Differs from the authors' code in: labels that are neither logits nor refined are refused unless allowed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"soft"})
    allow_prob: bool = opt(False, "compare logits with stored probabilities all the same")

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        return cosine_loss(logits, direction_of(targets, self.allow_prob))


LOSS = Cosine
