"""Choosing real images: pure functions of labels and features, per class, deterministic, prefix-nested."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .errors import DataError

__all__ = ["check_budget", "herding", "k_center", "random_order", "select_random"]


def check_budget(labels: Tensor, classes: Sequence[str], ipc: int) -> None:
    """Refuse a budget that a class cannot fill.

    Raises:
        DataError: naming the class, its images and the budget.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    short = [(name, int(count)) for name, count in zip(classes, counts, strict=True) if count < ipc]
    if short:
        name, count = short[0]
        raise DataError(
            f"class '{name}' has {count} training images, --ipc asks for {ipc}",
            field="ipc",
            hint="lower --ipc or --validation, or add images",
        )


def random_order(count: int, generator: Generator) -> Tensor:
    """A random permutation of count candidates, (count,) int64."""
    return torch.randperm(count, generator=generator)


def select_random(labels: Tensor, counts: Tensor, generator: Generator) -> Tensor:
    """counts[c] random items of each class c, class-major: indices (sum of counts,) int64.

    Args:
        labels: (n,) int64.
        counts: (k,) int64; at most the size of each class is taken.
    """
    chosen = []
    for label, count in enumerate(counts.tolist()):
        candidates = (labels == label).nonzero().flatten()
        chosen.append(candidates[random_order(len(candidates), generator)[:count]])
    return torch.cat(chosen)


def herding(features: Tensor, count: int) -> Tensor:
    """Greedy herding (Welling, ICML 2009; iCaRL, arXiv:1611.07725): the running mean follows the class mean.

    In step t the candidate nearest to t * mean - (sum of those chosen) is taken.

    Args:
        features: (m, f) of one class, any scale.
        count: how many to choose, at most m.

    Returns:
        Indices (count,) int64 in order of choice; the first j are the choice for budget j. Ties take the lowest index.

    Differs from the authors' code in: sums are float64, so that the thread count does not change the choice.
    DeepCore's version takes the farthest candidate.
    """
    points = features.double()
    mean = points.mean(dim=0)
    norms = points.square().sum(dim=1)
    taken = torch.zeros(len(points), dtype=torch.bool)
    total = torch.zeros_like(mean)
    chosen = []
    for step in range(1, count + 1):
        distance = norms - 2 * (points @ (step * mean - total))
        distance[taken] = torch.inf
        index = int(distance.argmin())
        taken[index] = True
        total += points[index]
        chosen.append(index)
    return torch.tensor(chosen, dtype=torch.int64)


def k_center(features: Tensor, count: int, *, start: int | None = None) -> Tensor:
    """Greedy k-center (Gonzalez, 1985): each choice is the candidate farthest from those chosen.

    Args:
        features: (m, f) of one class.
        count: how many to choose, at most m.
        start: the first choice; None takes the medoid, the candidate nearest to the mean.

    Returns:
        Indices (count,) int64 in order of choice, a 2-approximation of the covering radius. Ties take the lowest index.

    Differs from the authors' code in: a deterministic start by default, and memory that does not grow with count.
    """
    points = features.double()
    if start is None:
        start = int((points - points.mean(dim=0)).square().sum(dim=1).argmin())
    nearest = (points - points[start]).square().sum(dim=1)
    chosen = [start]
    nearest[start] = -1
    for _step in range(count - 1):
        index = int(nearest.argmax())
        chosen.append(index)
        nearest = torch.minimum(nearest, (points - points[index]).square().sum(dim=1))
        nearest[chosen] = -1
    return torch.tensor(chosen, dtype=torch.int64)
