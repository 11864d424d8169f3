"""Random real images, the same number per class: the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from .. import seeding
from ..selection import random_order
from ._method import Distilled, Problem, State, begin_selection, finish_selection, select

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class RandomSelection:
    """One random permutation per class; the choice for a smaller budget is a prefix of that for a larger one.

    Differs from the authors' code in: there is none.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def total_steps(self, problem: Problem) -> int:
        """One class per step."""
        return len(problem.classes)

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Nothing chosen."""
        del generator
        return begin_selection(problem)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Choose images of one class, from a stream of its own."""
        del generator
        order = random_order(len(problem.members(index)), seeding.generator(problem.seed, "random", index))
        return select(problem, state, index, order), {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen images."""
        return finish_selection(problem, state)


METHOD = RandomSelection
