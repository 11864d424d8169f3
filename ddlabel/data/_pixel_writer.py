"""Writing the file of decoded images: row by row, continued after a kill."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ResourceError
from ..events import Event, OnEvent
from ._pixel_file import HEADER_BYTES, LEVELS, Head, value_counts
from ._stored_pixels import BLOCK_BYTES, DIGEST_BYTES, digest_of

__all__ = ["PixelWriter", "remove_forgotten", "unfinished_name"]

PENDING_BYTES = 2**20
"""Images that are written at once."""
SPARE_BYTES = 16 * 2**20
"""Disk that is left free."""
FORGOTTEN_S = 7 * 24 * 3600
"""Age of an unfinished file that nobody will continue."""


class PixelWriter:
    """Writes a pixel file, continuing what an earlier writer left.

    Args:
        descriptor: of the unfinished file, open for reading and writing, nobody else's.
        path: its name.
        images, train: how many there will be, and how many of them are training images, which come first.
    """

    def __init__(self, descriptor: int, path: Path, images: int, train: int) -> None:
        self.shape: tuple[int, int, int] | None = None
        """(c, h, w) of all images; None before the first."""
        self.done = 0
        """Images written or waiting to be."""
        self._file, self._path, self._images, self._train = descriptor, path, images, train
        self._log_path = path.with_name(path.name + ".digests")
        self._digests = np.zeros((images, DIGEST_BYTES), np.uint8)
        self._counts = np.zeros((0, LEVELS), np.int64)
        self._pending: list[np.ndarray[Any, Any]] = []
        self._log = -1

    def __enter__(self) -> PixelWriter:
        with self._writing():
            self._log = os.open(self._log_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._log)

    def resume(self, on_event: OnEvent) -> None:
        """Keep the images of an earlier writer that are whole, and cut off the rest.

        Raises:
            ResourceError: the file cannot be read or written, or the disk has no room for the rest.
        """
        with self._writing():
            head = Head.read(os.pread(self._file, HEADER_BYTES, 0))
            if head is not None and (head.images, head.train) == (self._images, self._train):
                self._set_shape(head.shape)
                self._check(head, on_event)
            if not self.done:
                self.shape = None
            os.ftruncate(self._log, self.done * DIGEST_BYTES)
            os.ftruncate(self._file, HEADER_BYTES + self.done * head.row_bytes if head and self.done else 0)
        if self.done:
            self._check_room()

    def begin(self, shape: tuple[int, int, int]) -> None:
        """Say what the images are like.

        Raises:
            ResourceError: the disk has no room for them.
        """
        self._set_shape(shape)
        self._check_room()
        with self._writing():
            _write(self._file, self._head().to_bytes(), 0)

    def append(self, row: np.ndarray[Any, Any]) -> None:
        """Add an image (c, h, w) uint8.

        Raises:
            ResourceError: it cannot be written.
        """
        self._pending.append(np.ascontiguousarray(row))
        self.done += 1
        if len(self._pending) * row.nbytes >= PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits: images first, then their digests, so that no digest is ahead of its image."""
        if not self._pending:
            return
        start, row_bytes = self.done - len(self._pending), self._pending[0].nbytes
        for number, row in enumerate(self._pending, start=start):
            self._note(number, row)
        with self._writing():
            _write(self._file, b"".join(row.tobytes() for row in self._pending), HEADER_BYTES + start * row_bytes)
            _write(self._log, self._digests[start : self.done].tobytes(), start * DIGEST_BYTES)
        self._pending = []

    def widen(self) -> None:
        """Make three channels of one, in place and from the end; a kill on the way costs all images."""
        self.flush()
        narrow, count = self._head(), self.done
        self.begin((3, *narrow.shape[1:]))
        with self._writing():
            os.ftruncate(self._log, 0)
            for number in reversed(range(count)):
                plane = os.pread(self._file, narrow.row_bytes, HEADER_BYTES + number * narrow.row_bytes)
                wide = plane * 3
                _write(self._file, wide, HEADER_BYTES + number * len(wide))
                self._digests[number] = np.frombuffer(digest_of(wide), np.uint8)
            _write(self._log, self._digests[:count].tobytes(), 0)

    def finish(self, labels: Tensor, notes: dict[str, str], target: Path) -> None:
        """Complete the file and give it its name.

        Raises:
            ResourceError: it cannot be written.
        """
        self.flush()
        head = self._head()
        parts = (
            labels.numpy().astype("<i8").tobytes(),
            self._digests.tobytes(),
            self._counts.astype("<i8").tobytes(),
            json.dumps(notes, sort_keys=True).encode(),
        )
        rest = b"".join(parts)
        with self._writing():
            _write(self._file, rest + hashlib.sha256(head.to_bytes() + rest).digest(), head.end)
            os.replace(self._path, target)
        self.remove()

    def remove(self) -> None:
        """Remove what is unfinished."""
        for path in (self._log_path, self._path):
            with contextlib.suppress(OSError):
                path.unlink()

    def _head(self) -> Head:
        if self.shape is None:
            raise ValueError("no image was written")
        return Head(self.shape, self._images, self._train)

    def _check_room(self) -> None:
        head = self._head()
        needed, free = head.end + self._images * 32, shutil.disk_usage(self._path.parent).free
        there = os.fstat(self._file).st_size
        if needed - there + SPARE_BYTES > free:
            raise ResourceError(
                f"decoded images take {needed:,} bytes of disk in '{self._path.parent}', {free:,} are free",
                field="data",
                hint="free some space, name a folder on a larger disk by DDLABEL_CACHE_DIR, or lower --size",
            )

    def _set_shape(self, shape: tuple[int, int, int]) -> None:
        """Counts of a grey set count for all three channels once it is a colour set."""
        known = len(self._counts)
        self._counts = np.repeat(self._counts, shape[0], axis=0) if known == 1 else self._counts
        if len(self._counts) != shape[0]:
            self._counts = np.zeros((shape[0], LEVELS), np.int64)
        self.shape = shape

    def _note(self, number: int, row: np.ndarray[Any, Any]) -> None:
        self._digests[number] = np.frombuffer(digest_of(row), np.uint8)
        if number < self._train:
            self._counts += value_counts(row)

    def _check(self, head: Head, on_event: OnEvent) -> None:
        """Read back what is there, up to the first image that is not what its digest says."""
        logged = os.fstat(self._log).st_size // DIGEST_BYTES
        stored = (os.fstat(self._file).st_size - HEADER_BYTES) // head.row_bytes
        total, together = min(logged, stored, self._images), max(1, BLOCK_BYTES // head.row_bytes)
        for start in range(0, total, together):
            on_event(Event(phase="checking decoded images", done=start, total=total))
            count = min(together, total - start)
            data = os.pread(self._file, count * head.row_bytes, HEADER_BYTES + start * head.row_bytes)
            digests = os.pread(self._log, count * DIGEST_BYTES, start * DIGEST_BYTES)
            whole = min(len(data) // head.row_bytes, len(digests) // DIGEST_BYTES)
            rows = np.frombuffer(data, np.uint8, whole * head.row_bytes).reshape(whole, *head.shape)
            for number, row in enumerate(rows):
                if digest_of(row) != digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
                    return
                self._note(start + number, row)
                self.done += 1
            if whole < count:
                return

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResourceError(
                f"decoded images: {self._path.parent}: cannot be written ({error.strerror or error})",
                field="data",
                hint="free some space, or name another folder by DDLABEL_CACHE_DIR",
            ) from error


def unfinished_name(target: Path) -> Path:
    """What a pixel file is called until it is finished."""
    return target.with_name(f".{target.name}.partial")


def remove_forgotten(own: Path) -> None:
    """Remove what killed runs left beside an unfinished file, of other sets, after a week without a write."""
    oldest = time.time() - FORGOTTEN_S
    for path in own.parent.glob(".*.pixels.partial*"):
        with contextlib.suppress(OSError):
            if not path.name.startswith(own.name) and path.stat().st_mtime < oldest:
                path.unlink()


def _write(descriptor: int, data: bytes, offset: int) -> None:
    """All of it; short writes are continued."""
    view = memoryview(data)
    while len(view):
        count = os.pwrite(descriptor, view[:BLOCK_BYTES], offset)
        if not count:
            raise OSError(errno.EIO, "the system wrote nothing")
        view, offset = view[count:], offset + count
