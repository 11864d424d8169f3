"""Product quantisation: groups of classes as indices into codebooks that the whole set shares (Jegou et al., 2011)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import seeding
from ..errors import BundleError, UsageError
from ..options import opt
from ._affine import check_scale
from ._blocks import Array, half, over_blocks
from ._codec import MAX_F16, Codec, Shape, check_encodable, check_parts, measured

__all__ = ["CODEC"]

ROUNDS = 12
"""Of k-means."""
SAMPLE = 16_384
"""Views that k-means learns from, spread evenly over all."""
PROBE = 4_096
"""Views whose distinct values are counted before those of all are."""
GRID = 2.0**19
"""k-means computes with whole numbers up to this, whose products and sums float64 holds exactly: in any order, on any
number of threads, the result is the same."""
WIDEST = 8_192
"""Classes in a group for which that holds."""


@dataclass(frozen=True, kw_only=True)
class ProductQuantised(Codec):
    """8 bits a view and group, and codebooks of `entries` k 16 bits for the whole set.

    Codebooks are learned by k-means from the labels themselves. Labels with no more distinct values than entries are
    kept as they are, so that encoding what was decoded finds the same codebook, which is sorted.
    """

    groups: int | None = opt(None, "groups of neighbouring classes; auto takes one for 8 classes", min=1, max=100_000)
    entries: int = opt(256, "entries of the codebook of each group", min=2, max=256)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `codes` (n, v, groups) uint8 and `shared_codebook` (entries in use, k) float16."""
        check_encodable(values, MAX_F16)
        images, views, classes = values.shape
        rows = values.detach().flatten(0, 1).numpy()
        cuts = self._cuts(classes)
        learned = [self._codebook(rows, start, stop) for start, stop in itertools.pairwise(cuts)]
        codes = np.empty((len(rows), len(learned)), np.uint8)
        used = []
        for index, ((start, stop), book) in enumerate(zip(itertools.pairwise(cuts), learned, strict=True)):
            nearest = _nearest(rows, start, stop, book)
            present = np.unique(nearest)
            codes[:, index] = np.searchsorted(present, nearest)
            used.append(book[present])
        codebook = np.zeros((max(map(len, used)), classes), np.float16)
        for start, book in zip(cuts, used, strict=False):
            codebook[: len(book), start : start + book.shape[1]] = book
        return {
            "codes": torch.from_numpy(codes).reshape(images, views, -1),
            "shared_codebook": torch.from_numpy(codebook),
        }

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """Entries of the codebooks, side by side."""
        images, views, classes = shape
        cuts = self._cuts(classes)
        book = parts.get("shared_codebook", torch.empty(0))
        entries = min(max(len(book) if book.ndim else 0, 1), self.entries)
        check_parts(
            parts,
            {
                "codes": (torch.uint8, (images, views, len(cuts) - 1)),
                "shared_codebook": (torch.float16, (entries, classes)),
            },
        )
        codebook = book.numpy()
        check_scale(codebook, signed=True, name="shared_codebook")
        wide = codebook.astype(np.float32)

        def work(codes: Array) -> tuple[Array]:
            if (codes >= entries).any():
                raise BundleError(f"part 'codes' has a code above {entries - 1}", field="codes")
            rows = np.empty((len(codes), classes), np.float32)
            for index, (start, stop) in enumerate(itertools.pairwise(cuts)):
                rows[:, start:stop] = wide[codes[:, index], start:stop]
            return (rows,)

        (values,) = over_blocks(work, parts["codes"].flatten(0, 1).numpy(), width=classes)
        return torch.from_numpy(values).reshape(shape)

    def tolerance(self, values: Tensor) -> Tensor:
        """The error itself."""
        return measured(self, values)

    def check(self, views: int, classes: int) -> None:
        """There are enough classes for the groups."""
        del views
        self._cuts(classes)

    def _cuts(self, classes: int) -> list[int]:
        """Where groups start, and the end.

        Raises:
            UsageError: more groups than classes.
        """
        count = -(-classes // 8) if self.groups is None else self.groups
        if not 1 <= count <= classes or classes > count * WIDEST:
            least = -(-classes // WIDEST)
            raise UsageError(
                f"groups is {count} for labels of {classes} classes, expected groups from {least} to {classes}",
                field="groups",
            )
        return [index * classes // count for index in range(count + 1)]

    def _codebook(self, rows: Array, start: int, stop: int) -> Array:
        """(entries or fewer, stop - start) float16, distinct and sorted."""
        for part in (rows[:PROBE], rows):
            distinct = np.unique(half(part[:, start:stop].astype(np.float64)), axis=0)
            if len(distinct) > self.entries:
                return self._learn(rows[:: -(-len(rows) // SAMPLE), start:stop], start)
        return distinct

    def _learn(self, sample: Array, start: int) -> Array:
        """k-means in whole numbers."""
        scale = GRID / max(float(np.abs(sample).max()), 1e-30)
        points = np.rint(sample.astype(np.float64) * scale)
        order = torch.randperm(len(points), generator=seeding.generator(0, "vq", start)).numpy()
        centres = np.unique(points[order[: self.entries]], axis=0)
        for _round in range(ROUNDS):
            near = _closest(points, centres)
            counts = np.bincount(near, minlength=len(centres))
            sums = np.stack([np.bincount(near, column, len(centres)) for column in points.T], axis=1)
            moved = np.rint(sums / np.maximum(counts, 1)[:, None])
            centres = np.where(counts[:, None] > 0, moved, centres)
        return np.asarray(np.unique(half(centres / scale), axis=0))


def _nearest(rows: Array, start: int, stop: int, book: Array) -> Array:
    """(m,) the nearest entry of each row, of equal ones the first."""
    scale = GRID / max(float(np.abs(rows[:, start:stop]).max()), float(np.abs(book).max()), 1e-30)
    centres = np.rint(book.astype(np.float64) * scale)

    def work(block: Array) -> tuple[Array]:
        return (_closest(np.rint(block[:, start:stop].astype(np.float64) * scale), centres),)

    (nearest,) = over_blocks(work, rows, width=max(rows.shape[1], len(book)))
    return nearest


def _closest(points: Array, centres: Array) -> Array:
    """Index of the centre at the smallest distance; all numbers are whole and exact."""
    distances = (centres * centres).sum(axis=1) - 2 * (points @ centres.T)
    return np.asarray(distances.argmin(axis=1))


CODEC = ProductQuantised
