"""Knowledge distillation: hard cross entropy plus scaled KL divergence (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Targets, divergence

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation:
    """w_hard ce + w_soft T^2 KL(p_T(t) || p_T(s)), means over the batch.

    The defaults are those used on CIFAR; on ImageNet both weights are 0.5 and T is 1.

    Differs from the authors' code in: nothing; GIFT's comparison does not say which weights it took.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    temperature: float = opt(4.0, "softmax temperature T", above=0)
    hard_weight: float = opt(0.1, "weight of the hard cross entropy", min=0)
    soft_weight: float = opt(0.9, "weight of the scaled divergence", min=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        soft = self.temperature**2 * divergence(logits, targets, self.temperature)
        return self.hard_weight * functional.cross_entropy(logits, targets.hard) + self.soft_weight * soft


LOSS = KnowledgeDistillation
