"""What the numbers of images suggest about facts that files leave out; taken only when the user says so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _plugins
from ..errors import UsageError, suggest

__all__ = ["Guess", "constants_of", "guess", "likely_sets", "summary_of"]

UNITS_SLACK = 0.02
"""How far pixels may leave [0, 1] and still look like pixels: resizing and ZCA's inverse overshoot."""
WHITENED_STD = 0.6
"""Whitened images, regularised by 0.1, have standard deviations of 0.25 to 0.5; normalised ones 1 and more."""
CENTRED = 0.15
"""Largest mean of images in an input space."""
CLASS_COUNTS = {"cifar10": 10, "cifar100": 100, "svhn": 10, "stl10": 10, "mnist": 10, "fashion-mnist": 10}


@dataclass(frozen=True)
class Guess:
    """What images look like; None where nothing fits."""

    values: str | None
    """units or space."""
    space: str | None
    """normalised or zca, where values are of the input space."""


def guess(images: Tensor) -> Guess:
    """Look at float images (n, c, h, w)."""
    low, high, mean, std = _numbers(images)
    if low >= -UNITS_SLACK and high <= 1 + UNITS_SLACK and mean > 0:
        return Guess("units", None)
    if abs(mean) > CENTRED:
        return Guess(None, None)
    return Guess("space", "zca" if std < WHITENED_STD else "normalised")


def summary_of(images: Tensor) -> str:
    """Range, mean and standard deviation as a text."""
    low, high, mean, std = _numbers(images)
    return f"values {low:.1f}..{high:.1f}, mean {mean:.2f}, std {std:.2f}"


def likely_sets(channels: int, height: int, width: int, classes: int | None) -> list[str]:
    """Published data sets of that shape and number of classes, whose constants are known."""
    found = []
    for name, count in CLASS_COUNTS.items():
        plugin = _plugins.load("data", name, "DATASET")
        if (plugin.channels, plugin.side, plugin.side) == (channels, height, width) and classes in (None, count):
            found.append(name)
    return found


def constants_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of a published data set, in [0, 1] units.

    Raises:
        UsageError: none of that name has published constants.
    """
    if name not in CLASS_COUNTS:
        raise UsageError(f"no published constants of '{name[:40]}'{suggest(name, CLASS_COUNTS)}", field="constants")
    plugin = _plugins.load("data", name, "DATASET")
    return tuple(plugin.mean), tuple(plugin.std)


def _numbers(images: Tensor) -> tuple[float, float, float, float]:
    whole = images.double()
    spread = torch.std(whole, correction=0)
    return float(whole.min()), float(whole.max()), float(whole.mean()), float(spread)
