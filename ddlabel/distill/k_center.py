"""Greedy k-center on teacher features (Sener & Savarese, ICLR 2018, arXiv:1708.00489)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import seeding
from ..options import opt
from ..selection import k_center
from ._method import Problem
from ._selection import Choice, FeatureSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class KCenter(FeatureSelection):
    """Each choice is the real image farthest from those chosen, so that all are near one of them.

    Differs from the authors' code in: it starts from the medoid of the class unless told to start at random.
    """

    start: str = opt(
        "medoid", "first choice: the image nearest to the class mean, or a random one", choices=("medoid", "random")
    )

    def choose(self, problem: Problem, label: int) -> Choice:
        """By the features of one class."""
        start = None
        if self.start == "random":
            source = seeding.generator(problem.seed, "k-center", label)
            start = int(torch.randint(len(problem.members(label)), (1,), generator=source))
        return Choice(order=k_center(self.features(problem, label), problem.ipc, start=start))


METHOD = KCenter
