"""CutMix and Mixup of the images of a batch with each other, as records that can be applied again.

Only a live teacher can label such images: what it says of the mixed image is the label, never a mixture of labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ._tables import beta_table

__all__ = ["ALPHA", "MIXES", "Mix", "draw_mix", "mixed"]

ALPHA = {"cutmix": "1.0", "mixup": "0.8"}
"""a of Beta(a, a), as the tables of its quantiles write it (SRe2L, arXiv:2306.13092; RDED, arXiv:2312.03526)."""
MIXES = ("cutmix", "mixup", "none")


@dataclass(frozen=True)
class Mix:
    """What all images of a batch share, and each one's partner."""

    partner: Tensor
    """(n,) int64, a permutation of the batch."""
    weight: float
    """lambda: with Mixup the share of an image itself."""
    box: tuple[int, int, int, int] | None
    """With CutMix the first row, the row after the last, the first column and the column after the last of what the
    partner covers, maybe of no pixel; None with Mixup."""


def draw_mix(how: str, n: int, height: int, width: int, generator: Generator) -> Mix:
    """One lambda ~ Beta(a, a), one permutation and, with CutMix, one box for a batch.

    The sides of the box are floor(side sqrt(1 - lambda)); its centre is uniform over the pixels; half of each side,
    rounded down, lies either way of it, cut at the borders.

    Args:
        how: cutmix or mixup.
        n: images in the batch.
        height, width: of the images in pixels.
        generator: of the draws.
    """
    weight = _quantile(ALPHA[how], int(torch.randint(2**32, (1,), generator=generator)))
    partner = torch.randperm(n, generator=generator)
    if how == "mixup":
        return Mix(partner, weight, None)
    part = math.sqrt(1 - weight)
    rows, columns = (_span(side, part, generator) for side in (height, width))
    return Mix(partner, weight, (*rows, *columns))


def mixed(images: Tensor, mix: Mix) -> Tensor:
    """Images (n, c, h, w) mixed as drawn; the input is not changed.

    CutMix: the box holds the partner's pixels. Mixup: lambda x + (1 - lambda) x[partner].
    """
    partners = images[mix.partner.to(images.device)]
    if mix.box is None:
        return mix.weight * images + (1 - mix.weight) * partners
    top, bottom, left, right = mix.box
    result = images.clone()
    result[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return result


def _span(side: int, part: float, generator: Generator) -> tuple[int, int]:
    half = int(side * part) // 2
    centre = int(torch.randint(side, (1,), generator=generator))
    return max(0, centre - half), min(side, centre + half)


def _quantile(alpha: str, word: int) -> float:
    """The quantile of Beta(a, a) at word / 2^32, straight between the entries of its table of 257."""
    table = beta_table(alpha)
    cell, inside = word >> 24, (word & (2**24 - 1)) / 2**24
    low, high = int(table[cell]), int(table[cell + 1])
    return min(1.0, (low + (high - low) * inside) / 2**32)
