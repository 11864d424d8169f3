"""Random real images, the same number per class: the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from .. import seeding
from ..selection import random_order
from ._method import Distilled, Problem, State, finish_selection, select_by_class

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class RandomSelection:
    """One random permutation per class; the choice for a smaller budget is a prefix of that for a larger one.

    Differs from the authors' code in: there is none.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def total_steps(self) -> int:
        """Everything happens in `prepare`."""
        return 0

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Choose, each class from its own stream."""
        del generator
        return select_by_class(
            problem,
            lambda label, members: random_order(len(members), seeding.generator(problem.seed, "random", label)),
        )

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Never called."""
        del problem, index, generator
        return state, {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen images."""
        return finish_selection(problem, state)


METHOD = RandomSelection
