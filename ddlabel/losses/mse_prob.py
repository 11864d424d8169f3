"""Squared error of probabilities: the other reading of "MSE" in comparisons of losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ._loss import Targets, log_probabilities

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class SquaredErrorOfProbabilities:
    """Mean over batch and classes of (p(s) - p(t))^2 at T = 1.

    Differs from the authors' code in: GIFT and G-VBSM compare logits (`mse`); this one is for reference.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"soft"})

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        return functional.mse_loss(logits.softmax(dim=1), log_probabilities(targets).exp())


LOSS = SquaredErrorOfProbabilities
