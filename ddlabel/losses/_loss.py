"""What a loss is given, and the few functions that most losses share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError

__all__ = ["Loss", "Targets", "divergence", "log_probabilities", "logits_of", "soft_cross_entropy", "soft_of"]

SOFTMAX_DOMAINS = frozenset({"logit", "prob", "logprob", "unit"})
"""Label domains that the losses on probabilities understand."""
LOGIT_DOMAINS = frozenset({"logit"})
"""Label domains that losses on raw values understand."""


@dataclass(frozen=True)
class Targets:
    """The labels of one batch."""

    hard: Tensor
    """(b,) int64 classes."""
    soft: Tensor | None
    """(b, k) float32 stored label values."""
    domain: str | None
    """What `soft` is: logit, prob, logprob, or unit (an L2-normalised refined label)."""
    local: Tensor | None
    """(b,) bool: the sample is a sub-crop view (LADD); None when no sample is."""

    def to(self, device: torch.device) -> Targets:
        """The same labels on a device."""
        soft = None if self.soft is None else self.soft.to(device)
        local = None if self.local is None else self.local.to(device)
        return Targets(self.hard.to(device), soft, self.domain, local)


class Loss(Protocol):
    """A training loss: student logits (b, k) and targets to a scalar."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The mean over the batch."""
        ...


def soft_of(targets: Targets) -> Tensor:
    """The soft labels (b, k).

    Raises:
        UsageError: there are none.
    """
    if targets.soft is None:
        raise UsageError("this loss needs soft labels, the batch has hard ones", field="loss", hint="use --loss ce")
    return targets.soft


def log_probabilities(targets: Targets, temperature: float = 1.0) -> Tensor:
    """log softmax(t / T) of the labels, (b, k).

    Probabilities enter through their logarithm; a `unit` label is clipped at 0 and divided by its sum first.
    """
    soft = soft_of(targets)
    if targets.domain == "unit":
        soft = soft.clamp(min=0)
        soft = soft / soft.sum(dim=1, keepdim=True).clamp(min=torch.finfo(soft.dtype).tiny)
    if targets.domain in {"prob", "unit"}:
        soft = soft.clamp(min=torch.finfo(soft.dtype).tiny).log()
    return functional.log_softmax(soft / temperature, dim=1)


def logits_of(targets: Targets, allow_prob: bool) -> Tensor:
    """Stored values for a loss that compares raw values.

    Raises:
        UsageError: the labels are not logits and the loss was not told to take them.
    """
    if targets.domain not in LOGIT_DOMAINS and not allow_prob:
        raise UsageError(
            f"this loss compares logits, the labels are '{targets.domain}'",
            field="loss",
            hint="use softce or kl, or --set allow_prob=true",
        )
    return soft_of(targets)


def soft_cross_entropy(logits: Tensor, targets: Targets, temperature: float = 1.0) -> Tensor:
    """Per sample: -sum_c p_T(t)_c log p_T(s)_c, (b,)."""
    target = log_probabilities(targets, temperature).exp()
    return -(target * functional.log_softmax(logits / temperature, dim=1)).sum(dim=1)


def divergence(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    """Mean over the batch of KL(p_T(t) || p_T(s)), without the factor T^2."""
    target = log_probabilities(targets, temperature)
    student = functional.log_softmax(logits / temperature, dim=1)
    return (target.exp() * (target - student)).sum(dim=1).mean()
