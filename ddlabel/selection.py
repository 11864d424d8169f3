"""Choosing real images of one class: pure functions of scores, features or gradients; deterministic, prefix-nested.

Sums that decide a choice are float64, and those closer than `TIE` times the largest squared norm count as equal, so
that neither the thread count nor the linear algebra library changes a choice. Equal candidates come in their order.
Memory grows with the class, never with its square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .errors import DataError, UsageError
from .gradients import HeadGradients, head_step

__all__ = [
    "PICKS",
    "by_score",
    "check_budget",
    "craig",
    "glister",
    "herding",
    "k_center",
    "random_order",
    "select_random",
    "ties_cut",
]

PICKS = ("hard", "easy", "middle")
TIE = 1e-12
"""Relative distance below which two scores are equal: above float64 rounding, below any real difference."""
DISTANCE_TIE = 1e-9
"""The same for distances, which are roots."""
BLOCK_BYTES = 2**24
"""Size of a block of distances."""


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


def by_score(scores: Tensor, count: int, pick: str, *, ties: Tensor | None = None) -> Tensor:
    """The hardest, the easiest, or the most ordinary candidates of one class.

    Args:
        scores: (m,) difficulty, higher is harder.
        count: how many to choose, at most m.
        pick: `hard`, `easy`, or `middle`: nearest to the median, which lies between the two middle scores of an even
            class.
        ties: (m,) a second difficulty for candidates with equal scores.

    Returns:
        Indices (count,) int64 in order of choice; what is still equal comes in its order.
    """
    order = torch.arange(len(scores))
    for values in (scores,) if ties is None else (ties, scores):
        order = order[_key(values, pick)[order].sort(stable=True).indices]
    return order[:count]


def ties_cut(scores: Tensor, order: Tensor, pick: str) -> int:
    """How many candidates were left out although they score as the last one chosen: chance or order decided.

    Args:
        scores: (m,) as for `by_score`.
        order: what it returned.
        pick: as it was told.
    """
    key = _key(scores, pick)
    equal = key == key[order[-1]]
    return int(equal.sum() - equal[order].sum())


def herding(features: Tensor, count: int, *, far: bool = False) -> Tensor:
    """Greedy herding (Welling, ICML 2009; iCaRL, arXiv:1611.07725): the running mean follows the class mean.

    In step t the candidate nearest to t * mean - (sum of those chosen) is taken.

    Args:
        features: (m, f) of one class, any scale.
        count: how many to choose, at most m.
        far: take the farthest candidate instead, for comparison with DeepCore alone.

    Returns:
        Indices (count,) int64 in order of choice; the first j are the choice for budget j. Ties take the lowest index.

    Differs from the authors' code in: sums are float64, so that the thread count does not change the choice.
    DeepCore's version takes the farthest candidate.
    """
    points, tolerance = _centre(features)
    norms = torch.linalg.vector_norm(points, dim=1).square()
    excess = torch.zeros_like(points[0])  # sum of those chosen - t * mean
    chosen: list[int] = []
    for _step in range(count):
        distance = norms + 2 * (points @ excess)
        if far:
            distance = -distance
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
    norms = torch.linalg.vector_norm(points, dim=1).square()
    chosen = [_first_smallest(norms, tolerance) if start is None else start]
    nearest = torch.full_like(norms, torch.inf)
    while len(chosen) < count:
        newest = points[chosen[-1]]
        nearest = torch.minimum(nearest, norms - 2 * (points @ newest) + newest.square().sum())
        nearest[chosen] = -torch.inf
        chosen.append(_first_smallest(-nearest, tolerance))
    return torch.tensor(chosen, dtype=torch.int64)


def craig(gradients: HeadGradients, count: int) -> tuple[Tensor, Tensor]:
    """Greedy facility location on last-layer gradients (CRAIG: Mirzasoleiman et al., ICML 2020, arXiv:1906.01827).

    Each choice adds most to sum_i max_{j chosen} (kappa - ||g_i - g_j||). kappa, which must be at least every distance,
    cancels out of all comparisons: here it is twice the largest norm. Gains never grow, so that only candidates whose
    last known gain could still win are computed again (lazy greedy).

    Args:
        gradients: of the m candidates of one class.
        count: how many to choose, at most m.

    Returns:
        Indices (count,) int64 in order of choice, and float32 weights (count,): of how many candidates each is the
        nearest one chosen (the earliest of equally near ones); their sum is m.

    Differs from the authors' code in: DeepCore counts from 1 instead of 0, so that its weights sum to m + count,
    returns them in the order of indices, and holds all m * m similarities.
    """
    scale = 2 * float(gradients.norms.max())
    nearest = torch.full_like(gradients.norms, scale)
    owner = torch.zeros(len(nearest), dtype=torch.int64)
    bounds = torch.full_like(nearest, torch.inf)
    chosen: list[int] = []
    while len(chosen) < count:
        chosen.append(_largest_gain(gradients, nearest, bounds, DISTANCE_TIE * scale * len(nearest)))
        bounds[chosen[-1]] = -torch.inf
        distance = gradients.distances(torch.tensor(chosen[-1:]))[:, 0]
        if len(chosen) > 1:
            owner[distance < nearest - DISTANCE_TIE * scale] = len(chosen) - 1
        nearest = torch.minimum(nearest, distance)
    return torch.tensor(chosen, dtype=torch.int64), torch.bincount(owner, minlength=count).float()


def glister(gradients: HeadGradients, count: int, *, update_every: int, lr: float) -> Tensor:
    """Greedy bilevel choice (Glister: Killamsetty et al., AAAI 2021, arXiv:2012.10630).

    The gain of a candidate is <g_i, mean gradient of the class>; the latter is taken after a step of gradient descent
    of the last layer on those chosen.

    Args:
        gradients: of the m candidates of one class, on which the mean gradient is taken too.
        count: how many to choose, at most m.
        update_every: choices between two simulated steps; 0 never takes one, which is what DeepCore does.
        lr: of the simulated step.

    Returns:
        Indices (count,) int64 in order of choice. Ties take the lowest index.

    Differs from the authors' code in: the simulated step happens; in DeepCore a misspelled keyword prevents it.
    """
    tolerance = TIE * float(gradients.norms.square().max())
    chosen: list[int] = []
    loss = -gradients.gains(gradients.errors)
    while len(chosen) < count:
        if chosen and update_every and len(chosen) % update_every == 0:
            logits = head_step(gradients, torch.tensor(chosen), lr)
            loss = -gradients.gains(gradients.errors_of(logits))
        loss[chosen] = torch.inf
        chosen.append(_first_smallest(loss, tolerance))
    return torch.tensor(chosen, dtype=torch.int64)


def _largest_gain(gradients: HeadGradients, nearest: Tensor, bounds: Tensor, tolerance: float) -> int:
    """The candidate that brings all candidates nearest to those chosen; the first of equal ones.

    Args:
        gradients: of m candidates.
        nearest: (m,) distance of each to those chosen.
        bounds: (m,) at least the gain of each, -inf for those chosen; tightened in place.
        tolerance: below which gains are equal.
    """
    block = max(1, BLOCK_BYTES // (8 * len(nearest)))
    fresh, best = bounds == -torch.inf, -torch.inf
    size = min(block, 16)
    while True:
        stale = ((bounds >= best - 2 * tolerance) & ~fresh).nonzero().flatten()
        if not len(stale):
            return int((fresh & (bounds >= best - tolerance)).nonzero()[0])
        batch = stale[bounds[stale].sort(descending=True, stable=True).indices[:size]]
        bounds[batch] = gradients.distances(batch).neg_().add_(nearest[:, None]).clamp_(min=0).sum(dim=0)
        fresh[batch] = True
        best = max(best, float(bounds[batch].max()))
        size = min(block, 2 * size)


def _key(scores: Tensor, pick: str) -> Tensor:
    """(m,) float64, ascending in the order of choice."""
    values = scores.double()
    if pick == "middle":
        ordered = values.sort().values
        return (2 * values - (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2])).abs()
    return values if pick == "easy" else -values


def _centre(features: Tensor) -> tuple[Tensor, float]:
    """Features in float64 around their mean, which no choice depends on, and what counts as a tie of distances."""
    points = features.to(torch.float64, copy=True)
    largest = float(torch.linalg.vector_norm(points, dim=1).max())
    points -= points.mean(dim=0)
    return points, TIE * largest**2


def _first_smallest(scores: Tensor, tolerance: float) -> int:
    return int((scores <= scores.min() + tolerance).nonzero()[0])
