"""A share of the views of each image, drawn by a seed, stored by another codec: label pruning (LPLD, arXiv:2410.15919).

Which views are kept follows from seed, image and view by counting: nothing is stored for it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from .. import _plugins, seeding
from ..errors import BundleError, UsageError
from ..options import opt
from ._blocks import Array, over_blocks
from ._codec import Codec, Shape

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class Pruned(Codec):
    """round(keep * v) views of each image, at least one: the bits of the inner codec for those, none for the others.

    Differs from the authors' code in: every image keeps the same number of views, where LPLD draws batches of views.
    """

    keep: float = opt(0.1, "share of the views of each image that is kept", above=0, max=1)
    seed: int = opt(0, "which views are kept", min=0)
    values: str = opt("f16", "codec of the views that are kept, with its own default options")
    total: int | None = opt(None, "views there were; set when labels are written", min=1, max=2**31)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts of the inner codec, of the kept views of values (n, v, k); or of all, when they are the kept ones."""
        views = values.shape[1]
        bound = self if self.total is not None else self.bind(views)
        kept = bound._ids(len(values))
        if views == bound.total:
            values = values.gather(1, kept[..., None].expand(-1, -1, values.shape[2]))
        elif views != kept.shape[1]:
            raise UsageError(
                f"codec 'prune' was made for {bound.total} views of an image, these labels have {views}", field="codec"
            )
        return self._inner.encode(values)

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """The kept views, (n, v', k)."""
        if self.total is None or shape[1] != self._count:
            raise BundleError(f"codec 'prune' keeps {self._count} of {self.total} views, here are {shape[1]}")
        return self._inner.decode(parts, shape)

    def tolerance(self, values: Tensor) -> Tensor:
        """That of the inner codec, for the views that are kept; 0 for the others, which nobody sees."""
        bound = self if self.total is not None else self.bind(values.shape[1])
        if values.shape[1] != bound.total:
            return self._inner.tolerance(values)
        kept = bound._ids(len(values))
        inner = self._inner.tolerance(values.gather(1, kept[..., None].expand(-1, -1, values.shape[2])))
        return torch.zeros(values.shape[:2], dtype=torch.float64).scatter(1, kept, inner)

    def domain(self, domain: str) -> str:
        """That of the inner codec."""
        return self._inner.domain(domain)

    def check(self, views: int, classes: int) -> None:
        """What the inner codec says of the views that are kept."""
        bound = self.bind(views)
        bound._inner.check(bound._count, classes)

    def bind(self, views: int) -> Self:
        """With `total` set.

        Raises:
            UsageError: it is set to another number, or the inner codec is none or prunes too.
        """
        if self.total not in {None, views}:
            raise UsageError(f"option 'total' is {self.total}, these labels have {views} views", field="total")
        _ = self._inner
        return dataclasses.replace(self, total=views)

    def made_from(self, views: int) -> int:
        """`total`, once set."""
        return self.total or views

    def view_ids(self, images: int) -> Tensor | None:
        """The kept views of each image."""
        return self._ids(images)

    @property
    def _count(self) -> int:
        return max(1, int(self.keep * (self.total or 1) + 0.5))

    @property
    def _inner(self) -> Codec:
        if self.values == "prune":
            raise UsageError("option 'values' is 'prune', expected a codec that keeps all views", field="values")
        codec: Codec = _plugins.load("codecs", self.values, "CODEC")()
        return codec

    def _ids(self, images: int) -> Tensor:
        """(n, v') int64: the views with the smallest hashes."""
        count, views = self._count, self.total or 1
        start = np.uint64(seeding.stream_seed(self.seed, "prune"))

        def work(image: Array) -> tuple[Array]:
            hashes = _hash(_hash(image + start)[:, None] + np.arange(views, dtype=np.uint64))
            order = np.argsort(hashes, axis=1, kind="stable")[:, :count]
            return (np.sort(order, axis=1).astype(np.int64),)

        (ids,) = over_blocks(work, np.arange(images, dtype=np.uint64), width=4 * views)
        return torch.from_numpy(ids)


def _hash(values: Array) -> Array:
    """The finaliser of SplitMix64 (Steele et al., 2014): whole numbers alone, the same everywhere."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


CODEC = Pruned
