"""Random real images, the same number per class: the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass

from .. import seeding
from ..selection import random_order
from ._method import Problem
from ._selection import Choice, Selection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class RandomSelection(Selection):
    """One random permutation per class; the choice for a smaller budget is a prefix of that for a larger one.

    Differs from the authors' code in: there is none.
    """

    def choose(self, problem: Problem, label: int) -> Choice:
        """From a stream of the class's own."""
        order = random_order(len(problem.members(label)), seeding.generator(problem.seed, "random", label))
        return Choice(order=order[: problem.ipc])


METHOD = RandomSelection
