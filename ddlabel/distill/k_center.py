"""Greedy k-center on teacher features (Sener & Savarese, ICLR 2018, arXiv:1708.00489)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from .. import seeding
from ..config import opt
from ..errors import UsageError
from ..selection import k_center
from ._method import Distilled, Problem, State, finish_selection, select_by_class

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class KCenter:
    """Each choice is the real image farthest from those chosen, so that all are near one of them.

    Differs from the authors' code in: it starts from the medoid of the class unless told to start at random.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    start: str = opt(
        "medoid", "first choice: the image nearest to the class mean, or a random one", choices=("medoid", "random")
    )

    @property
    def total_steps(self) -> int:
        """Everything happens in `prepare`."""
        return 0

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Choose, class by class."""
        del generator
        teacher = problem.teacher
        if teacher is None:
            raise UsageError("k-center needs a teacher", field="teacher")

        def choose(label: int, members: Tensor) -> Tensor:
            features = teacher.features(problem.pixels[members], device=problem.device)
            start = None
            if self.start == "random":
                source = seeding.generator(problem.seed, "k-center", label)
                start = int(torch.randint(len(members), (1,), generator=source))
            return k_center(features, problem.ipc, start=start)

        return select_by_class(problem, choose)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Never called."""
        del problem, index, generator
        return state, {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen images."""
        return finish_selection(problem, state)


METHOD = KCenter
