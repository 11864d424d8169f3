"""How far a student's confidence can be believed: ECE and NLL, before and after temperature scaling.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Students of cosine-like losses have logits of an
arbitrary scale, so that only the scaled numbers compare them with others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import seeding
from ..data._dataset import Dataset, Split
from ..space import Space
from ..training import predict

__all__ = ["Calibration", "calibrate", "ece", "fit_temperature", "nll", "summarise_calibration"]

BINS = 15
"""Of equal width in the confidence."""
MOST_HELD_OUT = 10_000
"""Images that a temperature is fitted on at most: one number needs no more."""
BISECTIONS = 60
"""Halvings of a factor of two: far below the resolution of float64."""
MOST_DOUBLINGS = 200


@dataclass(frozen=True)
class Calibration:
    """One student's numbers on test data; None where there is no temperature."""

    temperature: float | None
    nll: float
    ece: float
    nll_scaled: float | None
    ece_scaled: float | None


def nll(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Mean negative log likelihood in nats of the classes (n,), of logits (n, k) divided by a temperature; float64."""
    return float(functional.cross_entropy(logits.double() / temperature, labels))


def ece(logits: Tensor, labels: Tensor, temperature: float = 1.0, *, bins: int = BINS) -> float:
    """Expected calibration error, in [0, 1]: mean gap between confidence and accuracy over bins, by their shares.

    The confidence is the largest softmax probability of logits (n, k) divided by a temperature. Bin b of B holds
    confidences in ((b - 1)/B, b/B]: one exactly on an edge belongs to the bin below it.
    """
    confidence, guesses = torch.softmax(logits.double() / temperature, dim=1).max(dim=1)
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    places = torch.bucketize(confidence, edges)
    gaps = confidence - (guesses == labels).double()
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, gaps)
    return float(sums.abs().sum() / len(labels))


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature that makes the NLL of logits (n, k) with classes (n,) smallest.

    The NLL is convex in the inverse temperature b, with the slope mean(E_b[z] - z_y): its root is bracketed by doubling
    and found by bisection of log b, without random draws or steps to choose, at any scale of the logits.

    Returns:
        None where no temperature is best: every image is classified right, so that the NLL falls for ever towards
        T = 0; or the logits are no better than their mean, so that it falls towards infinite T; or there are no images.
    """
    if not len(labels):
        return None
    values = logits.double()
    right = values.gather(1, labels[:, None])[:, 0]
    if float((values.amax(dim=1) - right).sum()) <= 0 or float((values.mean(dim=1) - right).sum()) >= 0:
        return None

    def slope(inverse: float) -> float:
        chances = torch.softmax(values * inverse, dim=1)
        return float(((chances * values).sum(dim=1) - right).mean())

    low = high = 1.0 / float(values.abs().amax())
    for _ in range(MOST_DOUBLINGS):
        if slope(high) >= 0:
            break
        high *= 2
    for _ in range(MOST_DOUBLINGS):
        if slope(low) <= 0:
            break
        low /= 2
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1.0 / math.sqrt(low * high)


def calibrate(net: nn.Module, dataset: Dataset, space: Space) -> Calibration:
    """A student's numbers on test data, with a temperature fitted on the held-out part of the training split."""
    held_out = _sample(dataset.validation)
    temperature = None
    if len(held_out):
        temperature = fit_temperature(predict(net, held_out.pixels, space=space), held_out.labels)
    logits, labels = predict(net, dataset.test.pixels, space=space), dataset.test.labels
    scaled = None if temperature is None else (nll(logits, labels, temperature), ece(logits, labels, temperature))
    return Calibration(
        temperature,
        nll(logits, labels),
        ece(logits, labels),
        None if scaled is None else scaled[0],
        None if scaled is None else scaled[1],
    )


def summarise_calibration(students: Sequence[Calibration]) -> dict[str, Any]:
    """Per number its values student by student and their mean; the mean is None where a student has no value."""
    records = [asdict(student) for student in students]
    columns = {field.name: [record[field.name] for record in records] for field in fields(Calibration)}
    return {
        name: {"values": values, "mean": None if None in values else fmean(values)} for name, values in columns.items()
    }


def _sample(split: Split) -> Split:
    """All of a split, or as many of its images as a temperature needs, the same for every student."""
    if len(split) <= MOST_HELD_OUT:
        return split
    chosen = torch.randperm(len(split), generator=seeding.generator(0, "calibration"))[:MOST_HELD_OUT].sort().values
    chosen = chosen.to(split.labels.device)
    return Split(split.pixels[chosen], split.labels[chosen])
