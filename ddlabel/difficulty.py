"""Difficulty of training images: pure functions of what nets say of them; a higher score is a harder image.

Everything is computed in float64. `p` is softmax of the logits, logarithms are natural. Scores of several nets are
averaged as scores, not as probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from .errors import DataError, UsageError, suggest

__all__ = [
    "ALIASES",
    "FORGETTING",
    "SCORES",
    "agreement",
    "canonical_score",
    "check_finite",
    "confidence",
    "el2n",
    "entropy",
    "forgetting",
    "grand",
    "loss",
    "margin",
    "order",
    "unknown_score",
]

FORGETTING = "forgetting"
"""The score that needs a whole training run instead of a trained net."""
ALIASES = {"uncertainty": "entropy"}
SMALLEST = 1e-12
"""Probabilities are clamped to this before their logarithm."""


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """||p - onehot(y)||_2, in [0, sqrt(2)] (Paul et al., NeurIPS 2021, arXiv:2107.07075); the score of PAD's paper.

    Args:
        logits: (n, k) of one net, any float dtype.
        labels: (n,) int64.

    Returns:
        (n,) float64.
    """
    length: Tensor = _error(logits, labels).norm(dim=1)
    return length


def grand(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """||p - onehot(y)||_2 * sqrt(1 + ||h||^2): norm of the cross-entropy's gradient in the last, linear layer.

    The score of PAD's published orders, made with DeepCore (arXiv:2204.08499).

    Args:
        logits: (n, k) of one net.
        labels: (n,) int64.
        features: (n, f), what the last layer sees.

    Differs from the authors' code in: nothing for this score; GraNd of all parameters (arXiv:2107.07075) is not
    offered.
    """
    return el2n(logits, labels) * (1 + features.double().square().sum(dim=1)).sqrt()


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy -log p(y) of every image in nats, with p(y) not below 1e-12; (n,) float64."""
    true = functional.log_softmax(logits.double(), dim=1).gather(1, labels[:, None])[:, 0]
    return -true.clamp(min=math.log(SMALLEST))


def entropy(logits: Tensor) -> Tensor:
    """-sum p log p in nats: needs no labels; (n,) float64. Also called `uncertainty`."""
    logarithm = functional.log_softmax(logits.double(), dim=1)
    return -(logarithm.exp() * logarithm.clamp(min=math.log(SMALLEST))).sum(dim=1)


def margin(logits: Tensor) -> Tensor:
    """1 - (largest p - second largest p), in [0, 1]: needs no labels; (n,) float64."""
    p = functional.pad(functional.softmax(logits.double(), dim=1), (0, 1))  # a single class has no second
    top = p.topk(2, dim=1).values
    return 1 - (top[:, 0] - top[:, 1])


def confidence(logits: Tensor) -> Tensor:
    """1 - largest p ("least confidence"): needs no labels; (n,) float64.

    Differs from the authors' code in: DeepCore takes the largest logit, which cannot be compared between images.
    """
    return 1 - functional.softmax(logits.double(), dim=1).amax(dim=1)


def forgetting(correct: Tensor) -> Tensor:
    """How often an image was learned and then forgotten again (Toneva et al., ICLR 2019, arXiv:1812.05159).

    Args:
        correct: (e, n) bool: whether the net said the class in each epoch, first to last.

    Returns:
        (n,) float64 counts of right followed by wrong; e + 1 for images that were never right, which are the hardest.

    Differs from the authors' code in: DeepCore gives images that were never learned the count 0, as if they were easy.
    """
    right = correct.bool()
    events = (right[:-1] & ~right[1:]).sum(dim=0).double()
    return torch.where(right.any(dim=0), events, float(len(right) + 1))


SCORES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "el2n": lambda logits, labels, _features: el2n(logits, labels),
    "grand": grand,
    "loss": lambda logits, labels, _features: loss(logits, labels),
    "entropy": lambda logits, _labels, _features: entropy(logits),
    "margin": lambda logits, _labels, _features: margin(logits),
    "confidence": lambda logits, _labels, _features: confidence(logits),
}
"""Scores of a trained net by name: functions of logits (n, k), labels (n,) and features (n, f). `forgetting` is not
among them: it needs every epoch."""


def canonical_score(name: str) -> str | None:
    """The name of a score, aliases resolved; None for anything else.

    >>> canonical_score("uncertainty"), canonical_score("scores.npy")
    ('entropy', None)
    """
    chosen = ALIASES.get(name, name)
    return chosen if chosen in {*SCORES, FORGETTING} else None


def unknown_score(name: str) -> UsageError:
    """What to say of a name that is no score, with the nearest ones."""
    known = (*SCORES, FORGETTING, *ALIASES)
    return UsageError(f"unknown score '{name[:80]}'{suggest(name, known)}", field="scores")


def check_finite(scores: Tensor, source: str) -> None:
    """Refuse scores that order nothing.

    Raises:
        DataError: a score is NaN or infinite, naming the first such image.
    """
    bad = (~torch.isfinite(scores)).nonzero().flatten()
    if len(bad):
        index = int(bad[0])
        raise DataError(
            f"{source}: the score of image {index} is {float(scores[index])}, expected finite numbers", field="scores"
        )


def order(scores: Tensor, labels: Tensor, classes: int) -> list[Tensor]:
    """The images of each class, easiest first.

    Args:
        scores: (n,) finite, higher is harder.
        labels: (n,) int64 below `classes`.
        classes: how many.

    Returns:
        One tensor of indices (n_c,) int64 per class, as long as the class is; equal scores by index. Together they are
        a permutation of 0 to n - 1.

    Raises:
        DataError: a score is not finite.
    """
    check_finite(scores, "scores")
    orders = []
    for label in range(classes):
        members = (labels == label).nonzero().flatten()
        orders.append(members[scores[members].sort(stable=True).indices])
    return orders


def agreement(left: Tensor, right: Tensor, labels: Tensor, classes: int) -> float | None:
    """Spearman's rank correlation of two scores, mean over the classes; equal scores share their mean rank.

    Args:
        left, right: (n,) finite.
        labels: (n,) int64.
        classes: how many; those in which a score does not vary are left out.

    Returns:
        In [-1, 1], or None where no class can be compared.
    """
    found = []
    for label in range(classes):
        members = labels == label
        a, b = (_centred_ranks(scores[members]) for scores in (left, right))
        scale = float(a.norm() * b.norm())
        if scale > 0:
            found.append(float(a @ b) / scale)
    return sum(found) / len(found) if found else None


def _centred_ranks(scores: Tensor) -> Tensor:
    """Ranks (n,) float64 around their mean."""
    _, places, counts = scores.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(dim=0).double()
    ranks: Tensor = (ends - (counts.double() - 1) / 2)[places]
    return ranks - ranks.mean() if len(ranks) else ranks


def _error(logits: Tensor, labels: Tensor) -> Tensor:
    """p - onehot(y), (n, k) float64."""
    p = functional.softmax(logits.double(), dim=1)
    return p - functional.one_hot(labels, p.shape[1])
