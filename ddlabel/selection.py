"""Which real images to keep, as pure functions of labels or features.

Decisions are made in float64 and equal candidates are told apart by their position, lowest first, so that a result
does not depend on the number of threads. Scores closer than `TIE` times the largest squared norm count as equal.
Every result is in selection order, and its first j entries are the result for a budget of j.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .errors import DataError

__all__ = ["cover", "herd", "select_random"]

TIE = 1e-12
"""Relative distance below which two scores are the same: above float64 rounding, below any real difference."""


def select_random(labels: Tensor, counts: Tensor, generator: Generator) -> Tensor:
    """Random images of each class without replacement; the baseline of every coreset table.

    Args:
        labels: (n,) int64 class of every candidate.
        counts: (k,) int64, how many to take of each class.
        generator: one permutation per class is drawn from it, in order of classes.

    Returns:
        (sum of counts,) int64 indices into `labels`, class-major, in selection order.

    Raises:
        DataError: a class has fewer images than its count.

    Differs from the authors' code in: has no single source; drawing is per class, so every class gets its count.
    """
    parts = []
    for label, count in enumerate(counts.tolist()):
        members = (labels == label).nonzero().flatten()
        if count > len(members):
            raise DataError(f"class {label} has {len(members)} training images, {count} were asked for")
        parts.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(parts)


def herd(features: Tensor, count: int, *, normalize: bool = False) -> Tensor:
    """Herding (Welling, ICML 2009): the mean of the chosen features follows the mean of all.

    The t-th pick minimises |t mu - s - h|^2, s the sum of the features picked before.

    Args:
        features: (m, f) of one class, any float dtype, finite.
        count: how many to pick, at most m.
        normalize: scale every feature vector to length 1 first.

    Returns:
        (count,) int64 positions.

    Differs from the authors' code in: DeepCore picks the farthest sample where the method asks for the nearest.
    """
    centred, tolerance = _centre(features, normalize)
    norms = centred.square().sum(dim=1)
    residual = torch.zeros_like(centred[0])
    chosen: list[int] = []
    for _ in range(_checked(count, features)):
        scores = norms + 2 * (centred @ residual)
        scores[chosen] = torch.inf
        chosen.append(_first_smallest(scores, tolerance))
        residual += centred[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.int64)


def cover(features: Tensor, count: int, *, start: int | None = None, normalize: bool = False) -> Tensor:
    """k-center greedy (Sener & Savarese, ICLR 2018, arXiv:1708.00489): each pick is farthest from those before.

    Args:
        features: (m, f) of one class, any float dtype, finite.
        count: how many to pick, at most m.
        start: position of the first pick; None takes the medoid, the sample nearest to the mean.
        normalize: scale every feature vector to length 1 first.

    Returns:
        (count,) int64 positions; their covering radius is at most twice the smallest possible.

    Differs from the authors' code in: DeepCore starts at a random sample and stores all pairwise distances.
    """
    centred, tolerance = _centre(features, normalize)
    norms = centred.square().sum(dim=1)
    chosen = [_first_smallest(norms, tolerance) if start is None else start][: _checked(count, features)]
    distances = torch.full_like(norms, torch.inf)
    while len(chosen) < count:
        newest = centred[chosen[-1]]
        to_newest = norms - 2 * (centred @ newest) + newest.square().sum()
        distances = torch.minimum(distances, to_newest.clamp(min=0))
        distances[chosen] = -torch.inf
        chosen.append(_first_smallest(-distances, tolerance))
    return torch.tensor(chosen, dtype=torch.int64)


def _centre(features: Tensor, normalize: bool) -> tuple[Tensor, float]:
    """Features in float64 around their mean, and what counts as a tie between squared distances."""
    exact = features.to(torch.float64)
    if normalize:
        exact = functional.normalize(exact, dim=1)
    tolerance = TIE * float(exact.square().sum(dim=1).max()) if len(exact) else 0.0
    return exact - exact.mean(dim=0), tolerance


def _first_smallest(scores: Tensor, tolerance: float) -> int:
    return int((scores <= scores.min() + tolerance).nonzero()[0])


def _checked(count: int, features: Tensor) -> int:
    if not 0 < count <= len(features):
        raise ValueError(f"count is {count}, expected 1 to {len(features)}, the number of features")
    return count
