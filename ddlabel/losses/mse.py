"""Squared error of logits (G-VBSM, arXiv:2311.17950; GIFT's comparison, arXiv:2405.14736)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Targets, logits_of

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class SquaredError:
    """Mean over batch and classes of (s - t)^2 on logits.

    Differs from the authors' code in: labels that are not logits are refused unless allowed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"soft"})
    allow_prob: bool = opt(False, "compare logits with stored probabilities all the same")

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        return functional.mse_loss(logits, logits_of(targets, self.allow_prob))


LOSS = SquaredError
