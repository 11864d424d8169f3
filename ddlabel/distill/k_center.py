"""Real images that cover the feature space: k-center greedy (Sener & Savarese, ICLR 2018, arXiv:1708.00489)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from ..config import opt
from ..selection import cover
from ._method import Distilled, Problem, State, begin_selection, finish_selection

__all__ = ["METHOD", "KCenter"]


@dataclass(frozen=True, kw_only=True)
class KCenter:
    """Greedy farthest-point choice in the feature space of a teacher; a smaller ipc gives a prefix of each class.

    Outliers come first, so expect less than random images at small ipc.

    Differs from the authors' code in: starts at the medoid unless told otherwise, works class by class, and takes
    features from the given teacher; DeepCore starts at random and uses ImageNet weights at 224 pixels.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    start: str = opt(
        "medoid", "first image: the one nearest to the class mean, or a random one", choices=("medoid", "random")
    )
    normalize: bool = opt(False, "scale every feature vector to length 1 first")

    def step_count(self, problem: Problem) -> int:
        """One class per step."""
        return len(problem.classes)

    def init(self, problem: Problem, generator: Generator) -> State:
        """Nothing chosen."""
        del generator
        return begin_selection(problem)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Choose the images of class `index`."""
        members = problem.members[index]
        first = int(torch.randint(len(members), (), generator=generator)) if self.start == "random" else None
        chosen = cover(problem.features(index), problem.ipc, start=first, normalize=self.normalize)
        indices = state["indices"].clone()
        indices[index] = members[chosen]
        return {"indices": indices}, {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen pixels."""
        return finish_selection(problem, state)


METHOD = KCenter
