"""Herding on teacher features (Welling, ICML 2009; as a coreset in DC, arXiv:2006.05929, and DCPI)."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import opt
from ..selection import herding
from ._method import Problem
from ._selection import Choice, FeatureSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Herding(FeatureSelection):
    """Greedy choice of real images whose mean feature follows the class mean.

    Differs from the authors' code in: DeepCore takes the farthest candidate in each step, here it is the nearest;
    `far` takes the farthest, for comparison.
    """

    far: bool = opt(False, "take the farthest image in each step, as DeepCore does; for comparison only")

    def choose(self, problem: Problem, label: int) -> Choice:
        """By the features of one class."""
        return Choice(order=herding(self.features(problem, label), problem.ipc, far=self.far))


METHOD = Herding
