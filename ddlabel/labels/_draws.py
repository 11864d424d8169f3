"""What fkd draws for a view of an image, in whole numbers, as a function of the stream, the image and the view.

Every draw has its own counter (image, view, attempt, purpose), and everything that follows from its bits is integer
arithmetic, so that the same view is made in any batch, order, process and platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..philox import below, philox
from ._tables import RATIO_BITS, beta_table, ratio_table

__all__ = ["MAX_SIDE", "WEIGHT_ONE", "Seeded"]

CROP, MIX, BOX = 0, 1, 2
"""Purposes of a draw: the last word of its counter."""
ATTEMPTS = 10
"""Crops tried before the whole image is taken, as in torchvision."""
MAX_SIDE = 4096
"""Largest side of an image in pixels for which all products fit 64 bits."""
WEIGHT_ONE = 2**16
"""The weight of an image that is not mixed."""

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Seeded:
    """The draws of one stream for square images; every answer is about pairs (image[i], view[i])."""

    key: int
    """64 bits."""
    images: int
    """How many images there are, n: partners are drawn from all of them."""
    side: int
    """In pixels."""
    scale_min: Fraction
    """Least area of a crop as a share of the image."""
    flip: bool
    """Whether views are mirrored at all."""
    alpha: str
    """a of Beta(a, a), as a decimal number."""

    def crops(self, image: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """RandomResizedCrop and mirroring: crop (b, 4) int64 top, left, height and width; flip (b,) bool.

        Area uniform in [scale_min, 1], aspect ratio log-uniform in [3/4, 4/3], both sides rounded, ten attempts, then
        the whole image.
        """
        first, second = _numbers(image), _numbers(view)
        crop = np.empty((len(first), 4), dtype=np.int64)
        crop[:] = 0, 0, self.side, self.side
        missing = np.arange(len(first))
        for attempt in range(ATTEMPTS):
            tried, fits = self._attempt(first[missing], second[missing], attempt)
            crop[missing[fits]] = tried[fits]
            missing = missing[~fits]
            if not len(missing):
                break
        coin, *_rest = philox(self.key, first, second, 0, MIX)
        return torch.from_numpy(crop), torch.from_numpy(self.flip & (below(coin, 2) == 1))

    def partners(self, image: Tensor, view: Tensor) -> Tensor:
        """Which image is mixed in: (b,) int64, uniform in [0, n)."""
        word = philox(self.key, _numbers(image), _numbers(view), 0, MIX)[1]
        return torch.from_numpy(below(word, self.images))

    def weights(self, image: Tensor, view: Tensor) -> Tensor:
        """Share of the image itself in a Mixup: (b,) int64 in units of 2^-16, Beta(a, a)."""
        return torch.from_numpy((self._lambda(image, view) >> 16).clip(max=WEIGHT_ONE - 1))

    def boxes(self, image: Tensor, view: Tensor) -> Tensor:
        """What the partner covers in a CutMix: (b, 4) int64 top, left, height and width, maybe of no pixel.

        Side floor(side sqrt(1 - lambda)) cut to an even number, centre uniform over the pixels, cut at the borders.
        """
        rest = (2**32 - self._lambda(image, view)).astype(np.uint64)
        cut = _root((rest * np.uint64(self.side**2)) >> np.uint64(32))
        words = philox(self.key, _numbers(image), _numbers(view), 0, BOX)
        sides = []
        for word in words[:2]:
            centre = below(word, self.side)
            start, end = (np.clip(centre + shift, 0, self.side) for shift in (-(cut // 2), cut // 2))
            sides.append((start, end - start))
        (top, height), (left, width) = sides
        return torch.from_numpy(np.stack([top, left, height, width], axis=1))

    def _attempt(self, image: Whole, view: Whole, attempt: int) -> tuple[Whole, NDArray[np.bool_]]:
        """One crop for each pair, and whether it lies inside the image."""
        p, q = self.scale_min.numerator, self.scale_min.denominator
        area, shape, row, column = philox(self.key, image, view, attempt, CROP)
        share = (np.uint64(p << 32) + np.uint64(q - p) * area) // np.uint64(q)  # of the image, in units of 2^-32
        ratios = ratio_table()
        index = below(shape, len(ratios))
        width, height = (_scaled(self.side, share * ratios[place]) for place in (index, len(ratios) - 1 - index))
        fits = (width >= 1) & (width <= self.side) & (height >= 1) & (height <= self.side)
        top = below(row, np.where(fits, self.side - height + 1, 1))
        left = below(column, np.where(fits, self.side - width + 1, 1))
        return np.stack([top, left, height, width], axis=1), fits

    def _lambda(self, image: Tensor, view: Tensor) -> Whole:
        """Beta(a, a) in units of 2^-32: the quantile of a uniform draw, straight between the entries of its table."""
        word = philox(self.key, _numbers(image), _numbers(view), 0, MIX)[2].astype(np.int64)
        table = beta_table(self.alpha).astype(np.int64)
        cell, inside = word >> 24, word & (2**24 - 1)
        found: Whole = table[cell] + (((table[cell + 1] - table[cell]) * inside) >> 24)
        return found


def _numbers(index: Tensor) -> Whole:
    return index.detach().cpu().numpy().astype(np.int64)


def _scaled(side: int, area: NDArray[np.uint64]) -> Whole:
    """Side times the root of an area in units of 2^-(32 + RATIO_BITS), rounded half up."""
    bits = (32 + RATIO_BITS) // 2
    return (side * _root(area) + (1 << (bits - 1))) >> bits


def _root(values: NDArray[np.uint64]) -> Whole:
    """Largest whole numbers whose squares do not exceed values below 2^62."""
    whole = values.astype(np.int64)
    root = np.sqrt(whole.astype(np.float64)).astype(np.int64)
    root -= root * root > whole
    root += (root + 1) * (root + 1) <= whole
    return root
