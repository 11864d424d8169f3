"""Keeping the k largest values of a view: what topk-mr, topk-ms and topk-min have in common.

Kept are the k largest values, of equal ones those of lower class ids. The set is stored as its rank among all sets
(`_subsets`), the values in class order, as steps below the largest one, which has code 0 while the smallest kept one
has the last code. A code times a step is exact in float32, so that encoding what was decoded gives the same codes.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, UsageError
from ..options import opt
from ._affine import check_scale
from ._bits import pack_rows, packed_width, unpack_rows
from ._blocks import Array, half, over_blocks
from ._codec import Codec, Shape, check_encodable, check_parts, measured, only_softmax
from ._subsets import subsets

__all__ = ["LOWEST", "RelativeTopK", "TopK", "largest", "steps_below"]

DEFAULT = 10
LOWEST = -(2.0**15)
"""A log-probability that is 0 after any softmax: e to the power of -32768 / T, at T up to 100."""


@dataclass(frozen=True, kw_only=True)
class TopK(Codec):
    """Parts `ids`, `codes` and `scale`; subclasses say how values are coded, and what the other classes get."""

    columns: ClassVar[int]
    """Of part `scale`: the step first."""

    k: int | None = opt(None, "classes kept per view; auto keeps 10, or all but one of fewer", min=1, max=100_000)
    bits: int = opt(4, "bits of each kept value", min=2, max=8)

    @property
    def levels(self) -> int:
        """The last code."""
        return int(2**self.bits - 1)

    @abstractmethod
    def code(self, values: Array, mask: Array, kept: Array) -> tuple[Array, Array]:
        """Codes (b, k) uint8 and scale (b, columns) float16.

        Args:
            values: (b, C) float32.
            mask: (b, C) which are kept.
            kept: (b, k) float64, those values.
        """
        ...

    @abstractmethod
    def uncode(self, codes: Array, scale: Array) -> tuple[Array, Array]:
        """Kept values (b, k), and the value of all others (b, 1), from codes and scale (b, columns) float64."""
        ...

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `ids` (n, v, bytes) and `codes` (n, v, ceil(k bits / 8)) uint8, `scale` (n, v, columns) float16."""
        images, views, classes = values.shape
        coder = subsets(classes, self._count(classes))

        def work(rows: Array) -> tuple[Array, ...]:
            mask = largest(rows, coder.count)
            kept = rows[mask].reshape(len(rows), -1).astype(np.float64)
            codes, scale = self.code(rows, mask, kept)
            return coder.encode(mask), pack_rows(codes, self.bits), scale

        arrays = over_blocks(work, values.detach().flatten(0, 1).numpy(), width=-(-classes // 4))
        ids, codes, scale = (torch.from_numpy(array).reshape(images, views, -1) for array in arrays)
        return {"ids": ids, "codes": codes, "scale": scale}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """Kept values where they were, one value elsewhere."""
        images, views, classes = shape
        coder = subsets(classes, self._count(classes))
        width = packed_width(coder.count, self.bits)
        check_parts(
            parts,
            {
                "ids": (torch.uint8, (images, views, coder.width)),
                "codes": (torch.uint8, (images, views, width)),
                "scale": (torch.float16, (images, views, self.columns)),
            },
        )
        ids, codes, scale = (parts[name].flatten(0, 1).numpy() for name in ("ids", "codes", "scale"))
        check_scale(scale, signed=True, name="scale")
        check_scale(scale[:, :1], signed=False, name="scale")

        def work(ids: Array, codes: Array, scale: Array, rows: Array) -> tuple[()]:
            mask = coder.decode(ids)
            inside, outside = self.uncode(unpack_rows(codes, self.bits, coder.count), scale.astype(np.float64))
            rows[:] = outside
            rows.reshape(-1)[np.flatnonzero(mask)] = inside.astype(np.float32).reshape(-1)  # faster than by mask
            return ()

        values = np.empty((len(ids), classes), np.float32)
        over_blocks(work, ids, codes, scale, values, width=-(-classes // 4))
        return torch.from_numpy(values).reshape(shape)

    def tolerance(self, values: Tensor) -> Tensor:
        """The error itself: most of it is what the values left out were."""
        return measured(self, values)

    def check(self, views: int, classes: int) -> None:
        """There are more than k classes."""
        del views
        self._count(classes)

    def _count(self, classes: int) -> int:
        """k, for so many classes.

        Raises:
            UsageError: there are no more than k classes.
        """
        count = min(DEFAULT, classes - 1) if self.k is None else self.k
        if not 1 <= count < classes:
            possible = f"expected k from 1 to {classes - 1}" if classes > 1 else "expected at least 2 classes"
            raise UsageError(
                f"k is {count} for labels of {classes} classes, {possible}",
                field="k",
                hint="--codec q4 keeps every class",
            )
        return count


@dataclass(frozen=True, kw_only=True)
class RelativeTopK(TopK):
    """Values relative to the largest one, for codecs whose values go through a softmax: it forgets offsets."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """As `TopK`.

        Raises:
            UsageError: kept values further apart than `LOWEST` leaves room for.
        """
        check_encodable(values)
        parts = super().encode(values)
        wide = parts["scale"][..., 0] > self._widest
        if bool(wide.any()):
            image, view = (int(index) for index in wide.nonzero()[0])
            raise UsageError(
                f"label of image {image}, view {view}: kept values span more than {self.levels * self._widest:g}",
                field="codec",
                hint="check the teacher, or use --codec f32",
            )
        return parts

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """As `TopK`, the largest value being 0."""
        values = super().decode(parts, shape)
        if bool((parts["scale"][..., 0] > self._widest).any()):
            raise BundleError("part 'scale': a step is too large", field="scale")
        return values

    def domain(self, domain: str) -> str:
        """`logprob`: without their offset, values only make sense through a softmax."""
        return only_softmax(type(self).__module__.rpartition(".")[2].replace("_", "-"), domain)

    @property
    def _widest(self) -> float:
        """The largest step, a float16: all kept values stay well above `LOWEST`."""
        return float(2.0 ** (14 - self.bits))


def largest(values: Array, count: int) -> Array:
    """(m, k) bool: the `count` largest of each row; of equal ones those of lower ids, which `topk` does not promise."""
    classes = values.shape[1]
    least = np.partition(values, classes - count, axis=1)[:, classes - count, None]
    mask = values >= least
    many = np.flatnonzero(mask.sum(axis=1, dtype=np.int32) > count)
    if many.size:
        rows, bound = values[many], least[many]
        above = rows > bound
        tied = rows == bound
        room = count - above.sum(axis=1, keepdims=True)
        mask[many] = above | (tied & (np.cumsum(tied, axis=1) <= room))
    return np.asarray(mask)


def steps_below(kept: Array, levels: int) -> tuple[Array, Array]:
    """Codes (m, k) uint8 and step (m, 1) float16 of kept values (m, k) float64, counted down from the largest."""
    top = kept.max(axis=1, keepdims=True)
    step = (top - kept.min(axis=1, keepdims=True)) / levels
    stored = half(step)
    flat = stored == 0
    codes = np.rint((top - kept) / np.where(flat, 1, step))
    codes[flat[:, 0]] = 0
    return codes.astype(np.uint8), stored
