"""Arrays in an `.npz` file: `train_images`, `train_labels`, `test_images`, `test_labels`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UsageError, suggest
from ..events import OnEvent
from ._dataset import DatasetInfo, RawData, Split, require_path, statistics

__all__ = ["DATASET"]

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
MAX_MEMBER_BYTES = 64 * 2**30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 2**20
"""Members up to this size may be compressed by any ratio."""


class Npz:
    """`npz:FILE`: images uint8 [n, h, w, c] or [n, h, w], labels whole numbers [n]. Nothing is unpickled."""

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Read the four arrays.

        Raises:
            DataError: missing keys, pickled objects, wrong types or shapes, deflate bombs.
        """
        del on_event
        file = Path(require_path("npz", path, "FILE.npz"))
        arrays = _read(file)
        splits = [
            Split(_images(arrays[f"{part}_images"], file, part), _labels(arrays[f"{part}_labels"], file, part))
            for part in ("train", "test")
        ]
        train, test = splits
        for part, split in zip(("train", "test"), splits, strict=True):
            if len(split.pixels) != len(split.labels):
                raise DataError(f"{file}: {len(split.pixels)} {part}_images, {len(split.labels)} {part}_labels")
        if train.pixels.shape[1:] != test.pixels.shape[1:]:
            raise DataError(f"{file}: training images are {tuple(train.pixels.shape[1:])}, test images differ")
        if size not in (None, train.pixels.shape[2]):
            raise UsageError(
                f"option 'size' is {size}, '{file}' has images of {train.pixels.shape[2]} px", field="size"
            )
        mean, std = statistics(train.pixels[:])
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


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                bomb = member.file_size > MAX_RATIO * max(1, member.compress_size)
                if member.file_size > MAX_MEMBER_BYTES or (bomb and member.file_size > RATIO_FREE_BYTES):
                    raise DataError(f"{file}: member '{member.filename}' says it holds {member.file_size} bytes")
        with np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in KEYS if key not in arrays.files]
            if missing:
                raise DataError(f"{file}: no array '{missing[0]}'{suggest(missing[0], arrays.files)}", field="data")
            return {key: arrays[key] for key in KEYS}
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file", field="data") from error
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{file}: not a readable .npz file ({error})", field="data") from error
    except ValueError as error:
        raise DataError(f"{file}: holds Python objects or a damaged array, expected plain numbers") from error


def _images(array: np.ndarray, file: Path, part: str) -> Tensor:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise DataError(
            f"{file}: '{part}_images' is {array.dtype} {array.shape}, expected uint8 [n, h, w] or [n, h, w, c]"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor[:, None] if array.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _labels(array: np.ndarray, file: Path, part: str) -> Tensor:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{file}: '{part}_labels' is {array.dtype} {array.shape}, expected whole numbers [n]")
    return torch.from_numpy(array.astype(np.int64))


DATASET = Npz()
