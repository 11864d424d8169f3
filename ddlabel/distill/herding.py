"""Herding on teacher features (Welling, ICML 2009; as a coreset in DC, arXiv:2006.05929, and DCPI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator
from torch.nn import functional

from ..options import opt
from ..selection import herding
from ._method import Distilled, Problem, State, begin_selection, finish_selection, select

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Herding:
    """Greedy choice of real images whose mean feature follows the class mean.

    Differs from the authors' code in: DeepCore takes the farthest candidate in each step, here it is the nearest.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    normalize: bool = opt(False, "divide each feature by its length first")

    def total_steps(self, problem: Problem) -> int:
        """One class per step."""
        return len(problem.classes)

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Nothing chosen."""
        del generator
        return begin_selection(problem)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Choose images of one class."""
        del generator
        features = problem.features(index)
        order = herding(functional.normalize(features) if self.normalize else features, problem.ipc)
        return select(problem, state, index, order), {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen images."""
        return finish_selection(problem, state)


METHOD = Herding
