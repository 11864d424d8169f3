"""Decoded data sets: made once, kept in the cache folder, held as a tensor when they fit, else read from the file."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ResourceError
from ..events import Event, OnEvent
from ._cache import cache_folder
from ._dataset import Split
from ._pixel_file import LEVELS, Contents, open_pixels, value_counts
from ._pixel_writer import PixelWriter, remove_forgotten, unfinished_name
from ._stored_pixels import Pixels, in_memory_limit, take

try:
    import fcntl
except ImportError:  # a system without these locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["VERSION", "Decoded", "Source", "cached", "decoded"]

VERSION = 2
"""Raised when the rules of decoding change: part of every key."""
REPORT_EVERY = 500
WAIT_S = 0.2
"""Between two looks at whether another run is done."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a data set is decoded from."""

    images: Callable[[int], Iterator[tuple[str, np.ndarray[Any, Any]]]]
    """From a number on: what to call an image, and the image (c, h, w) uint8. A set of one-channel and three-channel
    images has three channels."""
    first: str
    """What the first image is called."""
    labels: Tensor
    """(n,) int64, of training images first."""
    train: int
    """How many are training images."""
    notes: dict[str, str]
    """Kept with the images."""


@dataclass(frozen=True)
class Decoded:
    """A decoded data set."""

    pixels: Pixels
    """(n, c, h, w) uint8, training images first."""
    labels: Tensor
    counts: Tensor
    """(c, 256) int64: how often training images have each value."""
    train_count: int
    notes: dict[str, str]

    @property
    def train(self) -> Split:
        """The training images."""
        return self._split(0, self.train_count)

    @property
    def test(self) -> Split:
        """The test images."""
        return self._split(self.train_count, len(self.labels))

    def _split(self, start: int, stop: int) -> Split:
        if isinstance(self.pixels, Tensor):
            return Split(self.pixels[start:stop], self.labels[start:stop])
        return Split(take(self.pixels, torch.arange(start, stop)), self.labels[start:stop])


class _Sink(Protocol):
    """Takes images in their order."""

    shape: tuple[int, int, int] | None
    done: int

    def begin(self, shape: tuple[int, int, int]) -> None: ...

    def append(self, row: np.ndarray[Any, Any]) -> None: ...

    def widen(self) -> None: ...


def cached(key: str) -> Decoded | None:
    """What is kept under a key; None when there is nothing, or it is damaged."""
    folder = cache_folder()
    return None if folder is None else _held(open_pixels(folder / f"{key}.pixels"))


def decoded(key: str, source: Source, on_event: OnEvent) -> Decoded:
    """Decode a data set into the cache folder, continuing what a killed run left there.

    One of at most `in_memory_limit` bytes does without the folder when that cannot be written.

    Args:
        key: names the source as it is now.
        source: the images.
        on_event: told of progress.

    Raises:
        DataError: images of different sizes, naming both; whatever the source raises.
        ResourceError: a larger one, and no folder that can be written, or too small a disk.
    """
    folder = cache_folder()
    if folder is None:
        refused = ResourceError("no home folder", field="data", hint="name a cache folder by DDLABEL_CACHE_DIR")
    else:
        try:
            return _through_file(folder, key, source, on_event)
        except ResourceError as error:
            refused = error
    return _in_memory(source, refused, on_event)


def _through_file(folder: Path, key: str, source: Source, on_event: OnEvent) -> Decoded:
    target = folder / f"{key}.pixels"
    unfinished = unfinished_name(target)
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(unfinished, on_event) as descriptor:
        remove_forgotten(unfinished)
        found = cached(key)
        if found is None:
            _write(descriptor, unfinished, target, source, on_event)
        else:
            unfinished.unlink(missing_ok=True)
    found = found or cached(key)
    if found is None:
        raise ResourceError(f"{target}: cannot be read back", field="data", hint="check the disk")
    return found


def _write(descriptor: int, unfinished: Path, target: Path, source: Source, on_event: OnEvent) -> None:
    """Keeps what is decoded when a run is stopped, and nothing when it fails."""
    with PixelWriter(descriptor, unfinished, len(source.labels), source.train) as writer:
        try:
            writer.resume(on_event)
            _fill(writer, source, on_event)
            writer.finish(source.labels, source.notes, target)
        except (DataError, ResourceError):
            writer.remove()
            raise
        except BaseException:
            writer.flush()
            raise


def _fill(sink: _Sink, source: Source, on_event: OnEvent) -> None:
    total = len(source.labels)
    for index, (name, image) in enumerate(source.images(sink.done), start=sink.done):
        channels, height, width = image.shape
        if sink.shape is None:
            sink.begin((channels, height, width))
        elif (height, width) != sink.shape[1:]:
            raise DataError(
                f"{name} is {width} x {height}, {source.first} is {sink.shape[2]} x {sink.shape[1]}, expected one size",
                field="data",
                hint="use --size PIXELS to resize and crop all of them",
            )
        elif (channels, sink.shape[0]) == (3, 1):
            sink.widen()
        elif (channels, sink.shape[0]) == (1, 3):
            image = np.repeat(image, 3, axis=0)
        sink.append(image)
        if index % REPORT_EVERY == 0:
            on_event(Event(phase="decoding images", done=index, total=total))
    on_event(Event(phase="decoding images", done=total, total=total))


def _held(contents: Contents | None) -> Decoded | None:
    """As a tensor when it fits; None when its images are damaged."""
    if contents is None:
        return None
    pixels: Pixels = contents.pixels
    if pixels.numel() <= in_memory_limit():
        try:
            pixels = pixels[:]
        except DataError:
            return None
    return Decoded(pixels, contents.labels, contents.counts, contents.train, contents.notes)


def _in_memory(source: Source, refused: ResourceError, on_event: OnEvent) -> Decoded:
    sink = _Memory(len(source.labels), source.train, refused)
    _fill(sink, source, on_event)
    on_event(Event(phase="data", message=f"note: {refused.message}, decoded images are not cached"))
    pixels, counts = torch.from_numpy(sink.images), torch.from_numpy(sink.counts)
    return Decoded(pixels, source.labels, counts, source.train, source.notes)


class _Memory:
    """A sink that is an array."""

    def __init__(self, images: int, train: int, refused: ResourceError) -> None:
        self.shape: tuple[int, int, int] | None = None
        self.done = 0
        self.images = np.zeros((images, 1, 1, 1), np.uint8)
        self.counts = np.zeros((1, LEVELS), np.int64)
        self._train, self._refused = train, refused

    def begin(self, shape: tuple[int, int, int]) -> None:
        size, limit = len(self.images) * int(np.prod(shape)), in_memory_limit()
        if size > limit:
            raise ResourceError(
                f"decoded images take {size:,} bytes, more than the {limit:,} that are held in memory, and cannot be "
                f"kept on disk: {self._refused.message}",
                field="data",
                hint=self._refused.hint,
            )
        self.shape = shape
        self.images, self.counts = np.zeros((len(self.images), *shape), np.uint8), np.zeros((shape[0], LEVELS), int)

    def append(self, row: np.ndarray[Any, Any]) -> None:
        self.images[self.done] = row
        if self.done < self._train:
            self.counts += value_counts(row)
        self.done += 1

    def widen(self) -> None:
        images, counts = self.images, self.counts
        self.begin((3, *images.shape[2:]))
        self.images[:] = images
        self.counts[:] = counts


@contextlib.contextmanager
def _alone(path: Path, on_event: OnEvent) -> Iterator[int]:
    """A descriptor of a file that no other run has while inside, waiting for one that has it.

    The lock dies with the process. Where there are no locks, nobody waits.

    Raises:
        ResourceError: it cannot be made.
    """
    told = False
    while True:
        with _usable(path.parent):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            with _usable(path.parent):
                ours = _locked(descriptor) and _is(descriptor, path)
            if ours:
                yield descriptor
                return
        finally:
            os.close(descriptor)
        message = None if told else "another run is decoding the same images, waiting for it"
        on_event(Event(phase="waiting", message=message))
        told = True
        time.sleep(WAIT_S)


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{folder}: {error.strerror or error}", field="data", hint="name another cache folder by DDLABEL_CACHE_DIR"
        ) from error


def _locked(descriptor: int) -> bool:
    """Whether the file is ours now."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is(descriptor: int, path: Path) -> bool:
    """Whether a name still means the file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
