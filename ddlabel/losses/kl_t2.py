"""KL divergence times T^2, so that gradients do not shrink with the temperature (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..options import opt
from ._loss import Targets, divergence

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class ScaledDivergence:
    """T^2 KL(p_T(t) || p_T(s)), mean over the batch.

    Differs from the authors' code in: nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"soft"})
    temperature: float = opt(20.0, "softmax temperature T", above=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        return self.temperature**2 * divergence(logits, targets, self.temperature)


LOSS = ScaledDivergence
