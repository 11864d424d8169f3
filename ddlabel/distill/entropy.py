"""Real images on which a net is most undecided (Coleman et al., ICLR 2020, arXiv:1906.11829)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._selection import ScoreSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Entropy(ScoreSelection):
    """By the entropy of the probabilities; needs no labels. With `pick=hard` far below random images at small budgets.

    Differs from the authors' code in: DeepCore adds 1e-6 inside the logarithm; its class-balanced choice is the most
    uncertain, the other one the most certain. Here `pick` says which.
    """

    score: ClassVar[str] = "entropy"


METHOD = Entropy
