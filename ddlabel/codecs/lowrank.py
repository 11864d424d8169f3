"""Views as mixtures of a few views of their image, whole numbers for both: labels of rank r."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, UsageError
from ..options import opt
from ._affine import check_scale
from ._blocks import Array, half, over_blocks, row_sum
from ._codec import MAX_F16, Codec, Shape, check_encodable, check_parts, measured

__all__ = ["CODEC"]

TOP = 127.0
"""The largest code of int8."""
UNIT = 64.0
"""Code that stands for a factor of 1 when the step is 1/64, which float16 holds."""

Parts = tuple[Array, Array, Array, Array, Array]
"""ids (b, r) int16, basis (b, r, k) int8, scale (b, r) float16, codes (b, v, r) int8, steps (b, v, 1) float16."""


@dataclass(frozen=True, kw_only=True)
class LowRank(Codec):
    """r views of each image in 8 bits a class, all others as mixtures of them: 8 r k bits an image, 8 r + 16 a view.

    The views that span the others are chosen greedily, each the furthest from the span of those before it, and stay
    among the decoded views. Factors of a singular value decomposition would fit a little closer, but cannot be found
    again in what was decoded. Images whose mixtures do not survive encoding again have each view replaced by the
    nearest of r views.
    """

    rank: int | None = opt(None, "views that span the others; auto takes 3, or all of fewer", min=1, max=1024)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `image_ids`, `image_basis` (n, r, k) int8, `image_scale`, `codes` (n, v, r) int8 and `scale`."""
        check_encodable(values, MAX_F16)
        _images, views, classes = values.shape
        rank = self._rank(views)

        def work(block: Array) -> Parts:
            return _settled(block.astype(np.float64), rank)

        arrays = over_blocks(work, values.detach().numpy(), width=4 * views * classes)
        ids, basis, scale, codes, steps = (torch.from_numpy(array) for array in arrays)
        return {"image_ids": ids, "image_basis": basis, "image_scale": scale, "codes": codes, "scale": steps}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """Mixtures of the basis; the views of the basis as they are."""
        images, views, classes = shape
        rank = self._rank(views)
        names = {
            "image_ids": (torch.int16, (images, rank)),
            "image_basis": (torch.int8, (images, rank, classes)),
            "image_scale": (torch.float16, (images, rank)),
            "codes": (torch.int8, (images, views, rank)),
            "scale": (torch.float16, (images, views, 1)),
        }
        check_parts(parts, names)
        arrays = tuple(parts[name].numpy() for name in names)
        ids = np.sort(arrays[0], axis=1)
        if (ids < 0).any() or (ids >= views).any() or (ids[:, 1:] == ids[:, :-1]).any():
            raise BundleError(f"part 'image_ids' holds no {rank} different views of {views}", field="image_ids")
        check_scale(arrays[2], signed=False, name="image_scale")
        check_scale(arrays[4], signed=False, name="scale")

        def work(*block: Array) -> tuple[Array]:
            mixed = _mixed(*block)
            if not np.isfinite(mixed).all():
                raise BundleError("part 'codes': a mixture is not finite", field="codes")
            return (mixed,)

        (values,) = over_blocks(work, *arrays, width=views * classes)
        return torch.from_numpy(values)

    def tolerance(self, values: Tensor) -> Tensor:
        """The error itself."""
        return measured(self, values)

    def check(self, views: int, classes: int) -> None:
        """There are as many views as ranks."""
        del classes
        self._rank(views)

    def _rank(self, views: int) -> int:
        """r, for so many views.

        Raises:
            UsageError: there are fewer than r views.
        """
        rank = min(3, views) if self.rank is None else self.rank
        if rank > views:
            raise UsageError(
                f"rank is {rank} for labels of {views} views, expected rank from 1 to {views}", field="rank"
            )
        return rank


def _settled(values: Array, rank: int) -> Parts:
    """Parts that encoding again does not change.

    Copies of r views come first: when they are exact, they are what was decoded. Else mixtures, where encoding twice
    gives what encoding once does, or else copies. Both rules accept what they made, so that both are final.
    """
    copies, mixtures = _copies(values, rank), _mixtures(values, rank)
    exact = _same(_mixed(*copies), values)
    once = _mixed(*mixtures)
    stable = _same(_mixed(*_mixtures(once.astype(np.float64), rank)), once)
    stable &= np.abs(once).max(axis=(1, 2)) <= MAX_F16
    choice = exact | ~stable
    return tuple(
        np.where(choice.reshape(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in zip(copies, mixtures, strict=True)
    )  # type: ignore[return-value]


def _same(ours: Array, theirs: Array) -> Array:
    return np.asarray((ours == theirs).all(axis=(1, 2)))


def _mixed(ids: Array, basis: Array, scale: Array, codes: Array, steps: Array) -> Array:
    """(b, v, k) float32 values of parts; sums run over r in order."""
    spanning = basis * scale.astype(np.float64)[..., None]
    factors = codes * steps.astype(np.float64)
    rows = factors[..., :1] * spanning[:, None, 0]
    for index in range(1, basis.shape[1]):
        rows += factors[..., index, None] * spanning[:, None, index]
    np.put_along_axis(rows, ids.astype(np.int64)[..., None], spanning, axis=1)
    return np.asarray(rows.astype(np.float32) + np.float32(0))


def _quantised(rows: Array) -> tuple[Array, Array]:
    """Rows (..., k) as codes int8 and steps (...) float16: the largest magnitude has code 127."""
    step = np.abs(rows).max(axis=-1) / TOP
    stored = half(step)
    flat = (stored == 0)[..., None]
    codes = np.rint(rows / np.where(flat, 1, step[..., None]))
    return np.where(flat, 0, np.clip(codes, -TOP, TOP)).astype(np.int8), stored


def _copies(values: Array, rank: int) -> Parts:
    """Each view as a copy of the nearest of r views, each of which is the furthest from those before it."""
    images, views = values.shape[:2]
    distance = np.full((images, views), np.inf)
    ids = np.zeros((images, rank), np.int64)
    distances = np.empty((images, views, rank))
    for index in range(rank):
        ids[:, index] = distance.argmax(axis=1) if index else 0
        chosen = np.take_along_axis(values, ids[:, index, None, None], axis=1)
        difference = values - chosen
        distances[..., index] = row_sum(difference * difference)
        distance = np.minimum(distance, distances[..., index])
        np.put_along_axis(distance, ids[:, index, None], -1.0, axis=1)  # never twice
    basis, scale = _quantised(np.take_along_axis(values, ids[..., None], axis=1))
    nearest = distances.argmin(axis=2)
    codes = (np.arange(rank) == nearest[..., None]) * np.int8(UNIT)
    steps = np.full((images, views, 1), 1 / UNIT, np.float16)
    return ids.astype(np.int16), basis, scale, codes.astype(np.int8), steps


def _mixtures(values: Array, rank: int) -> Parts:
    """Each view as a mixture, by least squares, of r views; views that are whole numbers of steps are chosen first."""
    images, views, _classes = values.shape
    codes, steps = _quantised(values)
    whole = ((codes * steps.astype(np.float64)[..., None]).astype(np.float32) == values).all(axis=2)
    rest, ids = values.copy(), np.zeros((images, rank), np.int64)
    largest = np.maximum(row_sum(values * values).max(axis=1), 1e-300)
    free = np.ones((images, views), bool)
    for index in range(rank):
        norms = np.where(free, row_sum(rest * rest), -1.0)
        preferred = np.where(whole, norms, -1.0)
        pick = np.where(preferred.max(axis=1) > 1e-9 * largest, preferred.argmax(axis=1), norms.argmax(axis=1))
        ids[:, index] = pick
        np.put_along_axis(free, pick[:, None], False, axis=1)
        direction = np.take_along_axis(rest, pick[:, None, None], axis=1)
        length = np.maximum(row_sum(direction * direction), 1e-300)[..., None]
        rest -= row_sum(rest * direction)[..., None] / length * direction
    basis, scale = _quantised(np.take_along_axis(values, ids[..., None], axis=1))
    spanning = basis * scale.astype(np.float64)[..., None]
    factors = _least_squares(values, spanning)
    codes, steps = _quantised(factors)
    return ids.astype(np.int16), basis, scale, codes, steps[..., None]


def _least_squares(values: Array, spanning: Array) -> Array:
    """(b, v, r) factors of values (b, v, k), by Gram-Schmidt on spanning rows (b, r, k) in order."""
    images, rank = spanning.shape[:2]
    rows = spanning.copy()
    upper = np.zeros((images, rank, rank))
    used = np.zeros((images, rank), bool)
    sizes = row_sum(spanning * spanning)
    for index in range(rank):
        for _again in range(2):  # twice is enough
            for before in range(index):
                share = row_sum(rows[:, index] * rows[:, before]) * used[:, before]
                upper[:, before, index] += share
                rows[:, index] -= share[:, None] * rows[:, before]
        length = row_sum(rows[:, index] * rows[:, index])
        used[:, index] = length > 1e-9 * np.maximum(sizes[:, index], 1e-300)
        root = np.sqrt(np.where(used[:, index], length, 1.0))
        upper[:, index, index] = root
        rows[:, index] = np.where(used[:, index, None], rows[:, index] / root[:, None], 0)
    factors = np.zeros((*values.shape[:2], rank))
    shares = np.stack([row_sum(values * rows[:, index, None]) for index in range(rank)], axis=2)
    for index in range(rank - 1, -1, -1):
        solved = shares[..., index].copy()
        for later in range(index + 1, rank):
            solved -= upper[:, None, index, later] * factors[..., later]
        factors[..., index] = np.where(used[:, None, index], solved / upper[:, None, index, index], 0)
    return factors


CODEC = LowRank
