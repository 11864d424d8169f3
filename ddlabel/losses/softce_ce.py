"""Soft cross entropy plus weighted hard cross entropy (GIFT's comparison, arXiv:2405.14736, Table 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Targets, soft_cross_entropy

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class SoftWithHard:
    """softce + w ce.

    Differs from the authors' code in: nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    weight: float = opt(0.1, "weight w of the hard cross entropy", min=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        soft = soft_cross_entropy(logits, targets).mean()
        return soft + self.weight * functional.cross_entropy(logits, targets.hard)


LOSS = SoftWithHard
