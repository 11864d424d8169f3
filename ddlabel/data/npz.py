"""Arrays in an `.npz` file: `train_images`, `train_labels`, `test_images`, `test_labels`.

Images that do not fit in memory are read a few at a time into the cache folder, compressed or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ResourceError, UsageError, suggest
from ..events import OnEvent
from ._dataset import DatasetInfo, RawData, Split, require_path, statistics, statistics_of
from ._decoded import VERSION, Source, cached, decoded
from ._stored_pixels import in_memory_limit

__all__ = ["DATASET"]

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
MAX_MEMBER_BYTES = 64 * 2**30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 2**20
"""Members up to this size may be compressed by any ratio."""
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class Npz:
    """`npz:FILE`: images uint8 [n, h, w, c] or [n, h, w], labels whole numbers [n]. Nothing is unpickled."""

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Read the four arrays.

        Raises:
            DataError: missing keys, pickled objects, wrong types or shapes, deflate bombs.
        """
        file = Path(require_path("npz", path, "FILE.npz"))
        large = _check_members(file) > in_memory_limit()
        train, test, (mean, std) = _streamed(file, on_event) if large else _whole(file)
        for part, split in zip(("train", "test"), (train, test), strict=True):
            if len(split.pixels) != len(split.labels):
                raise DataError(f"{file}: {len(split.pixels)} {part}_images, {len(split.labels)} {part}_labels")
        if size not in (None, train.pixels.shape[2]):
            raise UsageError(
                f"option 'size' is {size}, '{file}' has images of {train.pixels.shape[2]} px", field="size"
            )
        classes = int(max(train.labels.max(), test.labels.max() if len(test) else 0)) + 1 if len(train) else 0
        info = DatasetInfo(
            name=file.stem,
            classes=tuple(str(index) for index in range(min(classes, 100_000))),
            channels=train.pixels.shape[1],
            height=train.pixels.shape[2],
            width=train.pixels.shape[3],
            mean=mean,
            std=std,
            flip=True,
            licence="unknown",
        )
        return RawData(info, train, test)


def _whole(file: Path) -> tuple[Split, Split, Statistics]:
    """All images in memory."""
    arrays = _read(file, KEYS)
    train, test = (
        Split(_images(arrays[f"{part}_images"], file, part), _labels(arrays[f"{part}_labels"], file, part))
        for part in ("train", "test")
    )
    _check_same(file, tuple(train.pixels.shape), tuple(test.pixels.shape))
    return train, test, statistics(train.pixels[:])


def _streamed(file: Path, on_event: OnEvent) -> tuple[Split, Split, Statistics]:
    """Images through the cache folder, a few at a time."""
    key = _cache_key(file)
    arrays = _read(file, KEYS, only=("train_labels", "test_labels"))
    labels = [_labels(arrays[f"{part}_labels"], file, part) for part in ("train", "test")]
    with _readable(file), zipfile.ZipFile(file) as archive:
        shapes = []
        for part in ("train", "test"):
            with archive.open(f"{part}_images.npy") as stream:
                shapes.append(_header(stream, file, part))
    for part, shape, known in zip(("train", "test"), shapes, labels, strict=True):
        if shape[0] != len(known):
            raise DataError(f"{file}: {shape[0]} {part}_images, {len(known)} {part}_labels")
    _check_same(file, *((shape[0], shape[3], *shape[1:3]) for shape in shapes))
    if not len(labels[0]):
        raise DataError(f"{file}: no training images", field="data")
    source = Source(
        images=lambda start: _rows(file, start, key),
        first=f"{file}: train_images[0]",
        labels=torch.cat(labels),
        train=len(labels[0]),
        notes={},
    )
    found = cached(key) or decoded(key, source, on_event)
    return found.train, found.test, statistics_of(found.counts)


def _cache_key(file: Path) -> str:
    """What the images depend on: name, size and time of the file."""
    with _readable(file):
        status = file.stat()
    said = f"npz {VERSION} {file.name} {status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()[:40]


def _rows(file: Path, start: int, key: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Training images, then test images, (c, h, w) each, from a number on: those before are read and dropped."""
    before = 0
    with _readable(file), zipfile.ZipFile(file) as archive:
        for part in ("train", "test"):
            with archive.open(f"{part}_images.npy") as stream:
                count, *shape = _header(stream, file, part)
                for number in range(count):
                    data = stream.read(math.prod(shape))
                    if len(data) < math.prod(shape):
                        raise EOFError(f"{part}_images ends after {number} images")
                    if before + number >= start:
                        image = np.frombuffer(data, np.uint8).reshape(shape)
                        yield f"{file}: {part}_images[{number}]", image.transpose(2, 0, 1)
            before += count
    if _cache_key(file) != key:
        raise DataError(f"{file}: changed while it was read", field="data", hint="run again when it is complete")


def _header(stream: IO[bytes], file: Path, part: str) -> tuple[int, int, int, int]:
    """(n, h, w, c) of an array of images, the stream then being at its first image."""
    shape, by_columns, dtype = _array_header(stream)
    _check_images(shape, dtype, file, part)
    if by_columns:
        raise ResourceError(
            f"{file}: '{part}_images' is stored by columns and does not fit in memory",
            field="data",
            hint="save np.ascontiguousarray of it, or give the pictures as folder:DIR",
        )
    count, height, width, *channels = shape
    return count, height, width, channels[0] if channels else 1


def _check_members(file: Path) -> int:
    """Bytes of the arrays of images; members that promise too much are refused."""
    with _readable(file), zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            bomb = member.file_size > MAX_RATIO * max(1, member.compress_size)
            if member.file_size > MAX_MEMBER_BYTES or (bomb and member.file_size > RATIO_FREE_BYTES):
                raise DataError(f"{file}: member '{member.filename}' says it holds {member.file_size} bytes")
        return sum(each.file_size for each in archive.infolist() if each.filename.endswith("_images.npy"))


def _read(file: Path, keys: Sequence[str], only: Sequence[str] = ()) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays that must be there, or only some of them."""
    with _readable(file), zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as arrays:
        missing = [key for key in keys if key not in arrays.files]
        if missing:
            raise DataError(f"{file}: no array '{missing[0]}'{suggest(missing[0], arrays.files)}", field="data")
        for key in only or keys:
            _check_size(archive, key, file)
        return {key: arrays[key] for key in only or keys}


def _check_size(archive: zipfile.ZipFile, key: str, file: Path) -> None:
    """An array is as long as its header says, so that nothing is reserved for one that only claims to be large."""
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as stream:
        shape, _by_columns, dtype = _array_header(stream)
        said = stream.tell() + math.prod(shape) * dtype.itemsize
    if said != member.file_size and not dtype.hasobject:
        raise DataError(f"{file}: '{key}' claims {dtype} {shape}, which is not what its {member.file_size} bytes hold")


def _array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored by columns, and dtype; the stream is then at the first number."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Words the failures of reading."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file", field="data") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # the last: encrypted, unknown
        raise DataError(f"{file}: not a readable .npz file ({error})", field="data") from error
    except ValueError as error:
        raise DataError(f"{file}: holds Python objects or a damaged array, expected plain numbers") from error


def _check_same(file: Path, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    if train[1:] != test[1:]:
        raise DataError(f"{file}: training images are {train[1:]}, test images differ")


def _check_images(shape: tuple[int, ...], dtype: np.dtype[Any], file: Path, part: str) -> None:
    if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape[1:]:
        raise DataError(f"{file}: '{part}_images' is {dtype} {shape}, expected uint8 [n, h, w] or [n, h, w, c]")


def _images(array: np.ndarray[Any, Any], file: Path, part: str) -> Tensor:
    _check_images(array.shape, array.dtype, file, part)
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor[:, None] if array.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _labels(array: np.ndarray[Any, Any], file: Path, part: str) -> Tensor:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{file}: '{part}_labels' is {array.dtype} {array.shape}, expected whole numbers [n]")
    return torch.from_numpy(array.astype(np.int64))


DATASET = Npz()
