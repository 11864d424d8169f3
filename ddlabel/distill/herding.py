"""Real images whose mean feature follows the class mean: herding (Welling, 2009), one class per step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from ..config import opt
from ..selection import herd
from ._method import Distilled, Problem, State, begin_selection, finish_selection

__all__ = ["METHOD", "Herding"]


@dataclass(frozen=True, kw_only=True)
class Herding:
    """Greedy choice in the feature space of a teacher; deterministic, a smaller ipc gives a prefix of each class.

    Differs from the authors' code in: DeepCore's herding takes the farthest sample where the method asks for the
    nearest one, and returns ascending indices instead of the order of choice.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    normalize: bool = opt(False, "scale every feature vector to length 1 first, as is common in continual learning")

    def step_count(self, problem: Problem) -> int:
        """One class per step."""
        return len(problem.classes)

    def init(self, problem: Problem, generator: Generator) -> State:
        """Nothing chosen."""
        del generator
        return begin_selection(problem)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Choose the images of class `index`."""
        del generator
        chosen = herd(problem.features(index), problem.ipc, normalize=self.normalize)
        indices = state["indices"].clone()
        indices[index] = problem.members[index][chosen]
        return {"indices": indices}, {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen pixels."""
        return finish_selection(problem, state)


METHOD = Herding
