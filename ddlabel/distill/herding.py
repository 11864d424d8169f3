"""Herding on teacher features (Welling, ICML 2009; as a coreset in DC, arXiv:2006.05929, and DCPI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor
from torch.nn import functional

from ..config import opt
from ..errors import UsageError
from ..selection import herding
from ._method import Distilled, Problem, State, finish_selection, select_by_class

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Herding:
    """Greedy choice of real images whose mean feature follows the class mean.

    Differs from the authors' code in: DeepCore takes the farthest candidate in each step, here it is the nearest.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    normalize: bool = opt(False, "divide each feature by its length first")

    @property
    def total_steps(self) -> int:
        """Everything happens in `prepare`."""
        return 0

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Choose, class by class."""
        del generator
        teacher = problem.teacher
        if teacher is None:
            raise UsageError("herding needs a teacher", field="teacher")

        def choose(label: int, members: Tensor) -> Tensor:
            del label
            features = teacher.features(problem.pixels[members], device=problem.device)
            return herding(functional.normalize(features) if self.normalize else features, problem.ipc)

        return select_by_class(problem, choose)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Never called."""
        del problem, index, generator
        return state, {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen images."""
        return finish_selection(problem, state)


METHOD = Herding
