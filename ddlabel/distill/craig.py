"""CRAIG: real images whose gradients stand for all others (Mirzasoleiman et al., ICML 2020, arXiv:1906.01827)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..selection import craig
from ._method import Problem
from ._selection import Choice, Selection, head

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class GradientCover(Selection):
    """Greedy facility location on the gradients of the teacher's last layer, with a weight per image.

    The weight, of how many images of its class an image is the nearest chosen one, is kept in
    `scores.selection.weights`; students do not use it.

    Differs from the authors' code in: DeepCore counts weights from 1 instead of 0 and stores them in the order of
    indices; it holds the similarities of all pairs, here they come in blocks.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def choose(self, problem: Problem, label: int) -> Choice:
        """By the gradients of one class."""
        order, weights = craig(head(problem, label), problem.ipc)
        return Choice(order=order, weights=weights)


METHOD = GradientCover
