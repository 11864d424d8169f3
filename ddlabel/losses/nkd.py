"""Normalised knowledge distillation: the classes that are not y renormalised on both sides (arXiv:2303.13005)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Targets, log_probabilities, others, soft_log_targets

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class NormalisedDistillation:
    """w_hard ce - mean p(t)_y log p(s)_y + gamma T^2 mean H_T over the classes that are not y, renormalised.

    H_T is the soft cross entropy at temperature T. The defaults are those published for ImageNet; on CIFAR-100 gamma
    is 3.5 and T is 3.

    Differs from the authors' code in: nothing; GIFT's comparison does not say which gamma and T it took.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    temperature: float = opt(1.0, "softmax temperature T of the classes that are not y", above=0)
    gamma: float = opt(1.5, "weight of the classes that are not y", min=0)
    hard_weight: float = opt(1.0, "weight of the hard cross entropy", min=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        hard = functional.cross_entropy(logits, targets.hard, reduction="none")
        trust = log_probabilities(targets).gather(1, targets.hard[:, None])[:, 0].exp()
        teacher = others(soft_log_targets(targets, self.temperature), targets.hard).softmax(dim=1)
        student = functional.log_softmax(others(logits / self.temperature, targets.hard), dim=1)
        rest = -(teacher * student).sum(dim=1)
        return ((self.hard_weight + trust) * hard + self.gamma * self.temperature**2 * rest).mean()


LOSS = NormalisedDistillation
