"""Random real images of each class: the baseline that every distillation method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from ..selection import select_random
from ._method import Distilled, Problem, State, begin_selection, finish_selection

__all__ = ["METHOD", "RandomSelection"]


@dataclass(frozen=True, kw_only=True)
class RandomSelection:
    """Real images drawn without replacement, one permutation per run; a smaller ipc gives a prefix of each class.

    Differs from the authors' code in: has no single source. DC's and MTT's baselines draw one set per experiment from
    the global generator; here the draw is a function of the seed alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def step_count(self, problem: Problem) -> int:
        """One step draws all classes."""
        del problem
        return 1

    def init(self, problem: Problem, generator: Generator) -> State:
        """Nothing chosen."""
        del generator
        return begin_selection(problem)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Draw `ipc` images of each class."""
        del index
        counts = torch.full((len(problem.classes),), problem.ipc)
        indices = select_random(problem.labels, counts, generator)
        return {"indices": indices.reshape(state["indices"].shape)}, {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen pixels."""
        return finish_selection(problem, state)


METHOD = RandomSelection
