"""Weighted soft labels: less weight where the student is already better than the teacher (arXiv:2102.00650)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..options import opt
from ._loss import Targets, log_probabilities, soft_cross_entropy

__all__ = ["LOSS"]

FLOOR = 1e-7
"""Added to the teacher's cross entropy before dividing by it."""


@dataclass(frozen=True, kw_only=True)
class WeightedSoftLabels:
    """ce + a T^2 mean_i(w_i H_T(t_i, s_i)), w = 1 - exp(-ce(s) / ce(t)) without gradient, H_T the soft cross entropy.

    The defaults are those published for ImageNet; on CIFAR-100 T is 4 and a is 2.25.

    Differs from the authors' code in: nothing; GIFT's comparison does not say which T and a it took.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    temperature: float = opt(2.0, "softmax temperature T", above=0)
    alpha: float = opt(2.5, "weight a of the soft term", min=0)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        student = functional.cross_entropy(logits, targets.hard, reduction="none")
        teacher = functional.nll_loss(log_probabilities(targets), targets.hard, reduction="none")
        weight = 1 - torch.exp(-student.detach() / (teacher + FLOOR))
        soft = weight * soft_cross_entropy(logits, targets, self.temperature)
        return student.mean() + self.alpha * self.temperature**2 * soft.mean()


LOSS = WeightedSoftLabels
