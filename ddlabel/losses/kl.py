"""KL divergence at a temperature, without T^2: what SRe2L, RDED and GIFT's code use (arXiv:2306.13092)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..options import opt
from ._loss import Targets, divergence

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """KL(p_T(t) || p_T(s)), mean over the batch. At T = 20 its gradient is 1/400 of `kl_t2`'s.

    Differs from the authors' code in: nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"soft"})
    temperature: float = opt(20.0, "softmax temperature T", above=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        return divergence(logits, targets, self.temperature)


LOSS = Divergence
