"""What a refinement is: a closed form from labels to labels."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..labels._labels import LabelSet

__all__ = ["Refinement"]


class Refinement(Protocol):
    """Changes the values of labels; images and teachers are not asked."""

    def apply(self, labels: LabelSet, hard: Tensor) -> LabelSet:
        """Refined labels, given the hard labels (n,) int64."""
        ...
