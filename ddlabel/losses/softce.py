"""Cross entropy with soft labels at T = 1, as DATM and PAD train and score (arXiv:2310.05773, arXiv:2408.03360)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ._loss import Targets, soft_cross_entropy

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class SoftCrossEntropy:
    """-sum_c p(t)_c log p(s)_c, mean over the batch; stored logits pass through a softmax.

    Differs from the authors' code in: nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"soft"})

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        return soft_cross_entropy(logits, targets).mean()


LOSS = SoftCrossEntropy
