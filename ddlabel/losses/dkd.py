"""Decoupled knowledge distillation: the hard class and the rest weighed apart (Zhao et al., arXiv:2203.08679)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Loss, Targets, others, soft_log_targets

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class DecoupledDistillation:
    """w_hard ce + r(e) T^2 (alpha KL of (p_y, 1 - p_y) + beta KL over the classes that are not y, renormalised).

    Teacher first in both divergences, means over the batch. The warm-up r(e) is min(e / 20, 1) in epoch e, counted
    from 1. The defaults are those published for CIFAR-100; on ImageNet beta is 0.5, T is 1 and the warm-up 1 epoch.

    Differs from the authors' code in: the class y is taken out by index, where the code adds -1000 to its logit, which
    overflows float16.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    temperature: float = opt(4.0, "softmax temperature T", above=0)
    alpha: float = opt(1.0, "weight of the divergence of the hard class against the rest", min=0)
    beta: float = opt(8.0, "weight of the divergence among the other classes", min=0)
    hard_weight: float = opt(1.0, "weight of the hard cross entropy", min=0)
    warmup: int = opt(20, "epochs over which the soft terms grow to their weight; 0 is at once", min=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k) after the warm-up."""
        return self._loss(logits, targets, 1.0)

    def at_epoch(self, epoch: int) -> Loss:
        """The loss in an epoch, from 0."""
        ramp = min((epoch + 1) / self.warmup, 1.0) if self.warmup else 1.0
        return lambda logits, targets: self._loss(logits, targets, ramp)

    def _loss(self, logits: Tensor, targets: Targets, ramp: float) -> Tensor:
        hard, student = targets.hard, logits / self.temperature
        teacher = soft_log_targets(targets, self.temperature)
        target = _binary_divergence(_log_share(teacher, hard), _log_share(student, hard))
        rest = functional.kl_div(
            functional.log_softmax(others(student, hard), dim=1),
            functional.log_softmax(others(teacher, hard), dim=1),
            reduction="batchmean",
            log_target=True,
        )
        soft = self.temperature**2 * (self.alpha * target + self.beta * rest)
        return self.hard_weight * functional.cross_entropy(logits, hard) + ramp * soft


def _log_share(values: Tensor, hard: Tensor) -> Tensor:
    """log p of the hard class and of all others together, (b, 2)."""
    own = values.gather(1, hard[:, None])
    rest = torch.logsumexp(others(values, hard), dim=1, keepdim=True)
    return functional.log_softmax(torch.cat([own, rest], dim=1), dim=1)


def _binary_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


LOSS = DecoupledDistillation
