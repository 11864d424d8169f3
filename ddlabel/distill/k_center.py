"""Greedy k-center on teacher features (Sener & Savarese, ICLR 2018, arXiv:1708.00489)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator
from torch.nn import functional

from .. import seeding
from ..options import opt
from ..selection import k_center
from ._method import Distilled, Problem, State, begin_selection, finish_selection, select

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
        start = None
        if self.start == "random":
            source = seeding.generator(problem.seed, "k-center", index)
            start = int(torch.randint(len(problem.members(index)), (1,), generator=source))
        features = problem.features(index)
        order = k_center(functional.normalize(features) if self.normalize else features, problem.ipc, start=start)
        return select(problem, state, index, order), {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen images."""
        return finish_selection(problem, state)


METHOD = KCenter
