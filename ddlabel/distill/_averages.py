"""Running averages of a net's statistics and their distance from those of real images (G-VBSM, arXiv:2311.17950)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._method import State
from ._statistics import Layer

__all__ = ["Averages", "distance", "straight_through"]


def straight_through(statistics: Tensor, average: Tensor | None, alpha: float) -> tuple[Tensor, Tensor]:
    """The running average with the gradient of the latest statistics, and the running average.

    Args:
        statistics: s (n,), with a graph.
        average: the average so far; None before the first statistics, which it then is.
        alpha: share of the average so far in the next one.
    """
    latest = statistics.detach()
    average = latest if average is None else alpha * average + (1 - alpha) * latest
    return average + (statistics - latest), average


def distance(layer: Layer, statistics: Tensor, target: Tensor) -> Tensor:
    """R_l: the lengths, not squared, of the differences of each kind of statistics, summed."""
    parts = (statistics - target).split(layer.lengths(len(target)))
    return torch.stack([torch.linalg.vector_norm(part) for part in parts]).sum()


@dataclass(frozen=True)
class Averages:
    """Targets and running averages of one net, as tensors of a state: all layers in a row."""

    number: int
    """Of the net."""
    layers: Sequence[Layer]

    def first(self, targets: Sequence[Tensor], *, known: bool) -> State:
        """Before the first step; `known` takes zero as an average (as the authors' code does)."""
        row = torch.cat(list(targets))
        return {
            self._name("sizes"): torch.tensor([len(target) for target in targets]),
            self._name("target"): row,
            self._name("average"): torch.zeros_like(row),
            self._name("known"): torch.full((len(targets),), known),
        }

    def forgotten(self, state: State) -> State:
        """As if nothing had been seen."""
        return {self._name("known"): torch.zeros_like(state[self._name("known")])}

    def followed(
        self, state: State, found: Sequence[Tensor | None], alpha: float, first_weight: float
    ) -> tuple[Tensor, State]:
        """Sum over the measured layers of w_l R_l, and what changes in the state; w is 1 but for the first layer."""
        sizes = state[self._name("sizes")].tolist()
        targets, averages = (state[self._name(name)].split(sizes) for name in ("target", "average"))
        known = state[self._name("known")].tolist()
        total, after = targets[0].new_zeros(()), list(averages)
        for index, statistics in enumerate(found):
            if statistics is None:
                continue
            seen, after[index] = straight_through(statistics, averages[index] if known[index] else None, alpha)
            own = distance(self.layers[index], seen, targets[index])
            total = total + (own * first_weight if index == 0 else own)
        now = [old or statistics is not None for old, statistics in zip(known, found, strict=True)]
        return total, {
            self._name("average"): torch.cat(after),
            self._name("known"): torch.tensor(now, device=targets[0].device),
        }

    def _name(self, what: str) -> str:
        return f"{what}.{self.number}"
