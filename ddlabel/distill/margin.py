"""Real images between two classes of a net (Coleman et al., ICLR 2020, arXiv:1906.11829)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._selection import ScoreSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Margin(ScoreSelection):
    """By 1 - (largest - second largest probability); needs no labels. With `pick=hard` below random at small budgets.

    Differs from the authors' code in: DeepCore's class-balanced choice is the most uncertain, the other one the most
    certain. Here `pick` says which.
    """

    score: ClassVar[str] = "margin"


METHOD = Margin
