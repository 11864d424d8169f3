"""Cross entropy with the hard label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from ._loss import Targets

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """-log p(s)_y, mean over the batch.

    Differs from the authors' code in: nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard"})

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        return functional.cross_entropy(logits, targets.hard)


LOSS = CrossEntropy
