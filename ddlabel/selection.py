"""Choosing real images: pure functions of labels and features, per class, deterministic, prefix-nested.

Scores that decide a choice are float64, and those closer than `TIE` times the largest squared feature norm count as
equal, so that neither the thread count nor the linear algebra library changes a choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .errors import DataError, UsageError

__all__ = ["check_budget", "herding", "k_center", "random_order", "select_random"]

TIE = 1e-12
"""Relative distance below which two scores are equal: above float64 rounding, below any real difference."""


def check_budget(labels: Tensor, classes: Sequence[str], ipc: int) -> None:
    """Refuse a budget that a class cannot fill.

    Raises:
        UsageError: the budget is below one image.
        DataError: naming the class, its images and the budget.
    """
    if ipc < 1:
        raise UsageError(f"option 'ipc' is {ipc}, expected at least 1", field="ipc")
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
        counts: (k,) int64.

    Raises:
        DataError: a class has fewer items than its count.
    """
    chosen = []
    for label, count in enumerate(counts.tolist()):
        candidates = (labels == label).nonzero().flatten()
        if count > len(candidates):
            raise DataError(f"class {label} has {len(candidates)} training images, {count} were asked for")
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
    points, tolerance = _centre(features)
    norms = points.square().sum(dim=1)
    excess = torch.zeros_like(points[0])  # sum of those chosen - t * mean
    chosen: list[int] = []
    for _step in range(count):
        distance = norms + 2 * (points @ excess)
        distance[chosen] = torch.inf
        chosen.append(_first_smallest(distance, tolerance))
        excess += points[chosen[-1]]
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
    points, tolerance = _centre(features)
    norms = points.square().sum(dim=1)
    chosen = [_first_smallest(norms, tolerance) if start is None else start]
    nearest = torch.full_like(norms, torch.inf)
    while len(chosen) < count:
        newest = points[chosen[-1]]
        nearest = torch.minimum(nearest, norms - 2 * (points @ newest) + newest.square().sum())
        nearest[chosen] = -torch.inf
        chosen.append(_first_smallest(-nearest, tolerance))
    return torch.tensor(chosen, dtype=torch.int64)


def _centre(features: Tensor) -> tuple[Tensor, float]:
    """Features in float64 around their mean, which no choice depends on, and what counts as a tie of distances."""
    points = features.double()
    return points - points.mean(dim=0), TIE * float(points.square().sum(dim=1).max())


def _first_smallest(scores: Tensor, tolerance: float) -> int:
    return int((scores <= scores.min() + tolerance).nonzero()[0])
