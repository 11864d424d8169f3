"""Real images that a net learns and forgets most often (Toneva et al., ICLR 2019, arXiv:1812.05159)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..difficulty import FORGETTING
from ..options import opt
from ._method import Problem
from ._selection import ScoreSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Forgetting(ScoreSelection):
    """By how often an image was right in one epoch and wrong in the next, as a training run recorded it.

    Images that were never right are the hardest. Counts tie often: `ties_cut` says how many images were left out
    although they were forgotten as often as the last one chosen.

    Differs from the authors' code in: DeepCore counts images that were never learned as never forgotten, the easiest;
    equal counts are decided by EL2N, recorded or of the teacher's net, instead of by index.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", f"scores.{FORGETTING}"})
    score: ClassVar[str] = FORGETTING
    ties: str = opt("el2n", "what decides between equal counts before the index does", choices=("el2n", "index"))

    @property
    def reads(self) -> frozenset[str]:
        """The counts, and the score between equal ones."""
        return frozenset({self.score, self.ties} - {"index"})

    def second(self, problem: Problem, label: int) -> Tensor | None:
        """EL2N."""
        return problem.difficulty(self.ties, label) if self.ties != "index" else None


METHOD = Forgetting
