"""What a loss is given, and the few functions that most losses share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError

__all__ = [
    "EpochLoss",
    "Loss",
    "Targets",
    "direction_of",
    "divergence",
    "log_probabilities",
    "logits_of",
    "loss_of_epoch",
    "others",
    "soft_cross_entropy",
    "soft_log_targets",
    "soft_of",
]

IF_ALLOWED = frozenset({"prob"})
"""Label domains that losses on logits take only when told to: the same formula, another objective."""
SOFTMAX_ONLY = frozenset({"logprob"})
"""Label domains without an offset of their own, in which codecs also write stand-ins for classes they dropped."""


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
    privileged: Tensor | None = None
    """(b, c, h, w) float32 feature or attention labels of the whole images; None without them."""
    mirrored: Tensor | None = None
    """(b,) bool: the augmentation mirrored the sample; None where it mirrors none."""
    seen: Tensor | None = None
    """(k,) bool: classes that may have a probability above 0; None where all may."""

    def to(self, device: torch.device) -> Targets:
        """The same labels on a device."""
        soft = None if self.soft is None else self.soft.to(device)
        local = None if self.local is None else self.local.to(device)
        privileged = None if self.privileged is None else self.privileged.to(device)
        mirrored = None if self.mirrored is None else self.mirrored.to(device)
        seen = None if self.seen is None else self.seen.to(device)
        return Targets(self.hard.to(device), soft, self.domain, local, privileged, mirrored, seen)


class Loss(Protocol):
    """A training loss: student logits (b, k) and targets to a scalar."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The mean over the batch."""
        ...


@runtime_checkable
class EpochLoss(Protocol):
    """A loss that changes from epoch to epoch."""

    def at_epoch(self, epoch: int) -> Loss:
        """The loss in an epoch, from 0."""
        ...


def loss_of_epoch(loss: Loss, epoch: int) -> Loss:
    """The loss itself, or what it is in an epoch when it changes."""
    return loss.at_epoch(epoch) if isinstance(loss, EpochLoss) else loss


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

    Probabilities enter through their logarithm, so that a class of probability 0 keeps it at every T: its entry is
    -inf. A `unit` label is clipped at 0 and divided by its sum (the softmax divides); one without a positive value
    stands for the uniform distribution, the limit of a vanishing floor. Classes that are not `seen` have probability 0.
    """
    soft = soft_of(targets)
    if targets.domain == "unit":
        soft = soft.where((soft > 0).any(dim=1, keepdim=True), 1.0)
    if targets.domain in {"prob", "unit"}:
        soft = soft.clamp(min=0).log()
    if targets.seen is not None:
        soft = soft.masked_fill(~targets.seen, -torch.inf)
    return functional.log_softmax(soft / temperature, dim=1)


def logits_of(targets: Targets, allow_prob: bool) -> Tensor:
    """Stored values for a loss that compares raw values.

    Raises:
        UsageError: there are no soft labels; they are refined; they are probabilities and the loss was not told to
            take them.
    """
    soft = soft_of(targets)
    if targets.domain == "logit" or (allow_prob and targets.domain in IF_ALLOWED):
        return soft
    hint = "use gift or cosine"
    if targets.domain in IF_ALLOWED | SOFTMAX_ONLY:
        hint = "use softce or kl" + (", or --set allow_prob=true" if targets.domain in IF_ALLOWED else "")
    raise UsageError(f"this loss compares logits, the labels are '{targets.domain}'", field="loss", hint=hint)


def direction_of(targets: Targets, allow_prob: bool) -> Tensor:
    """Stored values for a loss that compares directions; a refined label (`unit`) is one already.

    Raises:
        UsageError: as for `logits_of`.
    """
    return soft_of(targets) if targets.domain == "unit" else logits_of(targets, allow_prob)


def soft_cross_entropy(logits: Tensor, targets: Targets, temperature: float = 1.0) -> Tensor:
    """Per sample: -sum_c p_T(t)_c log p_T(s)_c, (b,)."""
    target = log_probabilities(targets, temperature).exp()
    return -(target * functional.log_softmax(logits / temperature, dim=1)).sum(dim=1)


def divergence(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    """Mean over the batch of KL(p_T(t) || p_T(s)), without the factor T^2; 0 log 0 is 0."""
    target = log_probabilities(targets, temperature)
    student = functional.log_softmax(logits / temperature, dim=1)
    gap = target.clamp(min=torch.finfo(target.dtype).min) - student
    return (target.exp() * gap).sum(dim=1).mean()


def soft_log_targets(targets: Targets, temperature: float) -> Tensor:
    """log p_T(t) with finite entries: classes of probability 0 get the smallest float, so that parts renormalise."""
    target = log_probabilities(targets, temperature)
    return target.clamp(min=torch.finfo(target.dtype).min / 4)


def others(values: Tensor, hard: Tensor) -> Tensor:
    """The columns of values (b, k) that are not the hard class: (b, k - 1)."""
    mask = torch.ones_like(values, dtype=torch.bool).scatter_(1, hard[:, None], False)
    return values[mask].reshape(len(values), -1)
