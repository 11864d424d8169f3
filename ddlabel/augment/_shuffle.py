"""Mosaics taken apart: the strips of an image in another order, column strips first, then row strips.

RDED (arXiv:2312.03526) stitches images from F x F patches, and its students see them with the patches moved.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

__all__ = ["draw_orders", "shuffled", "whole_side"]


def whole_side(side: int, factor: int) -> int:
    """The part of a side in pixels that F strips of equal width fill: what is over is dropped by the crop that follows.

    >>> whole_side(224, 2), whole_side(32, 3)
    (224, 30)
    """
    return side // factor * factor


def draw_orders(n: int, factor: int, generator: Generator) -> Mapping[str, Tensor]:
    """For n samples the order of their F column strips and of their F row strips, (n, F) int64 each."""
    return {name: torch.rand(n, factor, generator=generator).argsort(dim=1) for name in ("columns", "rows")}


def shuffled(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Images (n, c, h, w) whose strip j, floor(w / F) pixels wide, is strip columns[:, j] of the input; rows alike.

    Pixels beyond the last whole strip stay where they are, so that the result has the pixels of the input.

    Args:
        x: images.
        columns, rows: (n, F) or (1, F) int64 permutations.
    """
    return _shuffled_axis(_shuffled_axis(x, columns, 3), rows, 2)


def _shuffled_axis(x: Tensor, order: Tensor, axis: int) -> Tensor:
    side, order = x.shape[axis], order.to(x.device)
    wide = side // order.shape[1]
    source = torch.arange(side, device=x.device).repeat(len(order), 1)
    moved = order[:, :, None] * wide + torch.arange(wide, device=x.device)
    source[:, : moved.shape[1] * wide] = moved.flatten(1)
    shape = [len(order), 1, 1, 1]
    shape[axis] = side
    return x.gather(axis, source.reshape(shape).expand_as(x))
