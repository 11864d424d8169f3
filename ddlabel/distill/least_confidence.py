"""Real images of which a net is least confident (Coleman et al., ICLR 2020, arXiv:1906.11829)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._selection import ScoreSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class LeastConfidence(ScoreSelection):
    """By 1 - the largest probability; needs no labels. With `pick=hard` far below random images at small budgets.

    Differs from the authors' code in: DeepCore takes the largest logit, which cannot be compared between images; its
    class-balanced choice is the most uncertain, the other one the most certain. Here `pick` says which.
    """

    score: ClassVar[str] = "confidence"


METHOD = LeastConfidence
