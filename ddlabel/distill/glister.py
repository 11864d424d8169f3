"""Glister: real images that lower the loss of all (Killamsetty et al., AAAI 2021, arXiv:2012.10630)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..options import opt
from ..selection import glister
from ._method import Problem
from ._selection import Choice, Selection, head

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Glister(Selection):
    """Greedy choice of the image whose last-layer gradient points most along that of its whole class.

    The class's gradient is taken anew after a simulated step of the last layer on the images chosen so far. Training
    images alone are looked at: the held-out part stays for what it is held out for.

    Differs from the authors' code in: in DeepCore a misspelled keyword prevents the simulated step, which
    `update_every=0` reproduces; its held-out images are replaced by the training images of the class.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    update_every: int = opt(1, "images chosen between two simulated steps; 0 takes none, as DeepCore", min=0)
    lr: float = opt(0.1, "learning rate of the simulated step of the last layer", above=0)

    def choose(self, problem: Problem, label: int) -> Choice:
        """By the gradients of one class."""
        order = glister(head(problem, label), problem.ipc, update_every=self.update_every, lr=self.lr)
        return Choice(order=order)


METHOD = Glister
