"""LADD's deployment loss, Eq. 5: hard labels for whole images, dense labels for sub-crops (arXiv:2409.16239)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Targets, soft_cross_entropy

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class Ladd:
    """Mean over the samples of a batch: hard cross entropy of whole images, soft cross entropy of views.

    The batch is drawn by the estimator, so that the mean estimates Eq. 5 up to the constant 1/(1 + N^2). Of pruned
    labels, v' of the N^2 views are left, and whole images are one in 1 + v'.

    Differs from the authors' code in: nothing is published on how a batch samples the sum; the three estimators are
    ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    estimator: str = opt(
        "pool",
        "how a batch samples Eq. 5: pool (all pairs alike), balanced (half whole images) or full (every view)",
        choices=("pool", "balanced", "full"),
    )
    lambda_local: float = opt(1.0, "weight of the sub-crop terms; 1 is Eq. 5", min=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k); without view marks every sample counts as a view."""
        soft = self.lambda_local * soft_cross_entropy(logits, targets)
        if targets.local is None:
            return soft.mean()
        hard = functional.cross_entropy(logits, targets.hard, reduction="none")
        return soft.where(targets.local, hard).mean()


LOSS = Ladd
