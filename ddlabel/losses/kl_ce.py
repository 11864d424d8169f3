"""KL divergence plus weighted hard cross entropy (GIFT's comparison, arXiv:2405.14736, Table 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Targets, divergence

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class DivergenceWithHard:
    """kl + w ce, without T^2.

    Differs from the authors' code in: the weight of their row is not published; 0.1 is ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    temperature: float = opt(20.0, "softmax temperature T", above=0)
    weight: float = opt(0.1, "weight w of the hard cross entropy", min=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        soft = divergence(logits, targets, self.temperature)
        return soft + self.weight * functional.cross_entropy(logits, targets.hard)


LOSS = DivergenceWithHard
