"""Training on the classes seen so far: what stored labels say of later classes is taken out of every batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ._loss import Loss, Targets, loss_of_epoch

__all__ = ["SeenLoss", "slice_labels"]


def slice_labels(values: Tensor, domain: str | None, seen: Tensor) -> Tensor:
    """Labels without what they say of classes that are not seen, renormalised over those that are.

    Args:
        values: (b, k) labels.
        domain: of the values.
        seen: (k,) bool, at least one class.

    Returns:
        (b, k), at unseen classes: logit 0, log-probability -inf, probability 0, component 0 of a refined label. `prob`
        rows sum to 1 and `unit` rows have length 1 again; one with nothing at the seen classes is the same for all of
        them, the limit of a vanishing floor. The softmax of logits and log-probabilities is renormalised where it is
        taken, because `Targets.seen` gives unseen classes probability 0 there.
    """
    if domain == "logprob":
        return values.masked_fill(~seen, -torch.inf)
    kept = values.masked_fill(~seen, 0.0)
    if domain not in {"prob", "unit"}:
        return kept
    if domain == "prob":
        kept = kept.clamp(min=0)
    kept = kept.where((kept != 0).any(dim=1, keepdim=True), seen.to(kept))
    return functional.normalize(kept, dim=1) if domain == "unit" else kept / kept.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class SeenLoss:
    """A loss whose soft labels end at the classes seen so far.

    It stays a loss of all k logits: as under hard labels, whose entries at other classes are 0 as well, logits of
    unseen classes are driven down, so that an argmax over all units means the same for every loss. In the softmax
    family unseen classes have probability 0; losses on raw values (mse, cosine, gift) compare their logits with 0. Of
    what the teacher answers for unseen classes nothing is left.
    """

    base: Any
    seen: Tensor
    """(k,) bool."""

    @property
    def estimator(self) -> str:
        """How views are visited, as the loss itself says."""
        return str(getattr(self.base, "estimator", "views"))

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        if targets.soft is not None:
            seen = self.seen.to(targets.soft.device)
            soft = slice_labels(targets.soft, targets.domain, seen)
            targets = dataclasses.replace(targets, soft=soft, seen=seen)
        found: Tensor = self.base(logits, targets)
        return found

    def at_epoch(self, epoch: int) -> Loss:
        """The loss in an epoch, from 0."""
        return SeenLoss(loss_of_epoch(self.base, epoch), self.seen)
