"""Images that do not fit in memory: uint8 rows of a file, read when they are asked for and checked as they are read."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UsageError

__all__ = [
    "DIGEST_BYTES",
    "IN_MEMORY_BYTES",
    "PixelFile",
    "Pixels",
    "StoredPixels",
    "digest_of",
    "in_memory_limit",
    "row_digests",
    "take",
]

IN_MEMORY_BYTES = 2 * 2**30
"""Largest decoded data set, training and test images together, that is held as a tensor."""
LIMIT_VARIABLE = "DDLABEL_IN_MEMORY_BYTES"
DIGEST_BYTES = 12
BLOCK_BYTES = 4 * 2**20
"""Most that is read at once beside the result."""
GAP_BYTES = 64 * 2**10
"""Rows that are at most so far apart are read together, with what lies between them."""


class Pixels(Protocol):
    """uint8 images (n, c, h, w): a tensor, or `StoredPixels`. What both can do."""

    @property
    def shape(self) -> torch.Size:
        """(n, c, h, w)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """uint8."""
        ...

    @property
    def device(self) -> torch.device:
        """Where images come from: indices have to be there."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are held now; those of stored images are in a file and do not count."""
        ...

    def numel(self) -> int:
        """n * c * h * w."""
        ...

    def __len__(self) -> int:
        """How many images, n."""
        ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """Images in memory: of a number (c, h, w); of a slice, numbers (m,) int64 or a mask (n,) bool (m, c, h, w)."""
        ...

    def split(self, count: int, /) -> Iterable[Tensor]:
        """All images in their order, at most `count` at a time; one empty tensor of no images."""
        ...


class PixelFile:
    """The rows of an open file: never mapped, so that memory stays flat and a cut file is an error, not a signal.

    Args:
        path: the file; it may vanish afterwards.
        offset: where row 0 begins, in bytes.
        shape: of one row, (c, h, w).
        digests: (n, 12) uint8, blake2b of each row.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], digests: np.ndarray[Any, Any]) -> None:
        self.path, self.offset, self.shape, self.digests = path, offset, shape, digests
        self.row_bytes = int(np.prod(shape))
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, places: np.ndarray[Any, Any]) -> Tensor:
        """Rows by number (m,) int64, in any order and repeated, as new memory (m, *shape).

        Raises:
            DataError: the file is shorter than it was, cannot be read, or a row is not what was written.
        """
        result = torch.empty((len(places), *self.shape), dtype=torch.uint8)
        rows = result.numpy().reshape(len(places), self.row_bytes)
        order = places.argsort(kind="stable")
        ordered = places[order]
        for start, stop in self._together(ordered.tolist()):
            first = int(ordered[start])
            block = self._block(first, int(ordered[stop - 1]) - first + 1)
            rows[order[start:stop]] = block[ordered[start:stop] - first]
        for place, row in zip(places.tolist(), rows, strict=True):
            if digest_of(row) != self.digests[place].tobytes():
                raise self._damaged(f"decoded image {place} is not what was written")
        return result

    def _together(self, ordered: list[int]) -> Iterator[tuple[int, int]]:
        """Parts [start, stop) of ascending rows that are read at once."""
        start = 0
        for stop in range(1, len(ordered) + 1):
            if stop < len(ordered):
                gap = (ordered[stop] - ordered[stop - 1] - 1) * self.row_bytes
                span = (ordered[stop] - ordered[start] + 1) * self.row_bytes
            if stop == len(ordered) or gap > GAP_BYTES or span > BLOCK_BYTES:
                yield start, stop
                start = stop

    def _block(self, first: int, count: int) -> np.ndarray[Any, Any]:
        """Neighbouring rows, (count, row bytes)."""
        block = np.empty(count * self.row_bytes, np.uint8)
        view, done = block.data, 0
        try:
            while done < len(view):
                found = os.preadv(self._descriptor, [view[done:]], self.offset + first * self.row_bytes + done)
                if not found:
                    raise self._damaged("it ends too early")
                done += found
        except OSError as error:
            raise self._damaged(f"it cannot be read ({error.strerror})") from error
        return block.reshape(count, self.row_bytes)

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"{self.path}: {what}", field="data", hint="delete this file of the cache, it is made again; check the disk"
        )


class StoredPixels:
    """A view of some rows of a `PixelFile` as images (n, c, h, w); see `Pixels`."""

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, file: PixelFile, rows: Tensor) -> None:
        self._file, self._rows = file, rows

    @property
    def shape(self) -> torch.Size:
        """(n, c, h, w)."""
        return torch.Size((len(self._rows), *self._file.shape))

    @property
    def nbytes(self) -> int:
        """Of the numbers of the rows, and of the file's digests, which all views share."""
        return self._rows.nbytes + self._file.digests.nbytes

    def numel(self) -> int:
        """Bytes of the images in the file."""
        return len(self._rows) * self._file.row_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any, /) -> Tensor:
        chosen = self._chosen(index)
        return self._file.read(chosen.numpy()) if chosen.ndim else self._file.read(chosen[None].numpy())[0]

    def split(self, count: int, /) -> Iterator[Tensor]:
        """Each part is read when its turn comes."""
        for start in range(0, max(1, len(self)), count):
            yield self[start : start + count]

    def rows(self, index: Any) -> StoredPixels:
        """Another view, by slice, numbers (m,) int64 or mask (n,) bool; nothing is read."""
        chosen = self._chosen(index)
        if chosen.ndim != 1:
            raise TypeError("a view needs a slice, numbers (m,) or a mask (n,)")
        return StoredPixels(self._file, chosen)

    def digests(self) -> np.ndarray[Any, Any]:
        """(n, 12) uint8 as `row_digests` gives them; nothing is read."""
        found: np.ndarray[Any, Any] = self._file.digests[self._rows.numpy()]
        return found

    def _chosen(self, index: Any) -> Tensor:
        if not isinstance(index, int | slice) and not (isinstance(index, Tensor) and index.ndim <= 1):
            raise TypeError(f"stored images are indexed by a number, slice, numbers (m,) or mask (n,), not {index!r}")
        return self._rows[index]


def take(pixels: Pixels, index: Tensor) -> Pixels:
    """Some images: a new tensor of a tensor, another view of stored images.

    Args:
        pixels: (n, c, h, w).
        index: numbers (m,) int64 or a mask (n,) bool.
    """
    return pixels.rows(index) if isinstance(pixels, StoredPixels) else pixels[index]


def digest_of(row: Any) -> bytes:
    """Of one image's bytes, 12 of them."""
    return hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest()


def row_digests(pixels: Pixels) -> np.ndarray[Any, Any]:
    """blake2b of every image, (n, 12) uint8; those of stored images are known."""
    if isinstance(pixels, StoredPixels):
        return pixels.digests()
    rows = pixels[:].contiguous().cpu().numpy()
    found = np.empty((len(rows), DIGEST_BYTES), np.uint8)
    for number, row in enumerate(rows):
        found[number] = np.frombuffer(digest_of(row), np.uint8)
    return found


def in_memory_limit() -> int:
    """Bytes of decoded images up to which a data set is a tensor: `IN_MEMORY_BYTES`, or $DDLABEL_IN_MEMORY_BYTES.

    Raises:
        UsageError: the variable is not a whole number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return IN_MEMORY_BYTES
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{LIMIT_VARIABLE} is '{text[:40]}', expected a number of bytes such as {IN_MEMORY_BYTES}")
    return int(text)
