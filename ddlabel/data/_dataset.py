"""Data sets: what a plugin gives, and what stages get: uint8 pixels in splits, with a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import _plugins, seeding
from ..errors import DataError, UsageError
from ..events import Event, OnEvent, ignore
from ._stored_pixels import DIGEST_BYTES, Pixels, row_digests, take

__all__ = [
    "Dataset",
    "DatasetInfo",
    "DatasetPlugin",
    "RawData",
    "Split",
    "load",
    "require_path",
    "statistics",
    "statistics_of",
]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set without its images."""

    name: str
    classes: tuple[str, ...]
    """In label order."""
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    """Per channel, in [0, 1] units."""
    std: tuple[float, ...]
    flip: bool
    """Whether a mirrored image is still of its class (not for digits)."""
    licence: str


@dataclass(frozen=True)
class Split:
    """Images and their classes."""

    pixels: Pixels
    """(n, c, h, w) uint8: a tensor, or `StoredPixels` where they do not fit in memory."""
    labels: Tensor
    """(n,) int64."""

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels)


@dataclass(frozen=True)
class RawData:
    """What a plugin loads: official training and test images, in a canonical order."""

    info: DatasetInfo
    train: Split
    test: Split
    warnings: tuple[str, ...] = ()


class DatasetPlugin(Protocol):
    """A module of this room defines one as `DATASET`."""

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Read the data set.

        Args:
            path: what follows the name and a colon, or None.
            size: side in pixels that images are resized to; None keeps them.
            on_event: told of progress.

        Raises:
            DataError: missing or unusable files, naming the path.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as stages use it: training without validation, validation for choices, test for reports."""

    info: DatasetInfo
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    """sha256 of class names, shape and the official training split."""
    validation_fraction: float

    def manifest(self) -> dict[str, Any]:
        """The manifest's `data` record, apart from `space`."""
        info = self.info
        return {
            "name": info.name,
            "classes": list(info.classes),
            "channels": info.channels,
            "height": info.height,
            "width": info.width,
            "train_images": len(self.train),
            "fingerprint": self.fingerprint,
            "validation": {"fraction": self.validation_fraction},
            "flip": info.flip,
        }


def load(spec: str, *, size: int | None = None, validation: float = 0.1, on_event: OnEvent = ignore) -> Dataset:
    """Load a data set by its specification, NAME or NAME:PATH.

    Args:
        spec: such as `digits` or `folder:/data/pets`.
        size: side in pixels to resize to.
        validation: share of each training class held out. Which images depends on the images alone, so that every
            stage holds out the same ones.
        on_event: told of progress and warnings.

    Raises:
        UsageError: unknown name.
        DataError: unusable files, images or labels.
    """
    name, _, path = spec.partition(":")
    plugin: DatasetPlugin = _plugins.load("data", name, "DATASET")
    raw = plugin.load(path or None, size, on_event)
    _check(raw, spec)
    digests = row_digests(raw.train.pixels)
    for warning in (*raw.warnings, *_leaks(raw, digests)):
        on_event(Event(phase="data", message=f"warning: {warning}"))
    fingerprint = _fingerprint(raw, digests)
    held_out = _held_out(raw.train.labels, len(raw.info.classes), validation, fingerprint)
    return Dataset(
        info=raw.info,
        train=Split(take(raw.train.pixels, ~held_out), raw.train.labels[~held_out]) if validation else raw.train,
        validation=Split(take(raw.train.pixels, held_out), raw.train.labels[held_out]),
        test=raw.test,
        fingerprint=fingerprint,
        validation_fraction=validation,
    )


def statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in [0, 1] units, exact: from a histogram of uint8 pixels (n, c, h, w).

    Differs from the usual averages in: integer counts, so that order and threads do not matter. A channel that never
    changes gets standard deviation 1.
    """
    counts = torch.zeros(pixels.shape[1], 256, dtype=torch.int64)
    for channel in range(pixels.shape[1]):
        for chunk in pixels[:, channel].split(4096):
            counts[channel] += torch.bincount(chunk.flatten().int(), minlength=256)
    return statistics_of(counts)


def statistics_of(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same of how often each value occurs in each channel, (c, 256) int64."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for row in counts:
        share = row.double() / row.sum()
        mean = float((share * levels).sum())
        variance = float((share * (levels - mean).square()).sum())
        means.append(round(mean, 6))
        stds.append(round(variance**0.5, 6) or 1.0)
    return tuple(means), tuple(stds)


def require_path(name: str, path: str | None, example: str) -> str:
    """The path of a specification.

    Raises:
        UsageError: there is none.
    """
    if not path:
        raise UsageError(f"data '{name}' needs a path, expected {name}:{example}", field="data")
    return path


def _check(raw: RawData, spec: str) -> None:
    classes = len(raw.info.classes)
    if classes < 2:
        raise DataError(f"{spec}: {classes} class, expected at least 2", field="data")
    if len(set(raw.info.classes)) < classes:
        raise DataError(f"{spec}: two classes have the same name", field="data")
    if raw.info.height != raw.info.width:
        raise DataError(
            f"{spec}: images are {raw.info.width} x {raw.info.height}, expected squares",
            field="data",
            hint="use --size to resize and crop them",
        )
    for name, split in (("training", raw.train), ("test", raw.test)):
        if len(split) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < classes:
            raise DataError(f"{spec}: {name} labels outside 0 to {classes - 1}", field="data")
        counts = torch.bincount(split.labels, minlength=classes) if len(split) else torch.zeros(classes)
        empty = [raw.info.classes[index] for index in (counts == 0).nonzero().flatten().tolist()]
        if empty and (name == "training" or len(empty) == classes):
            raise DataError(f"{spec}: no {name} images of class '{empty[0]}'", field="data")


def _leaks(raw: RawData, train: np.ndarray[Any, Any]) -> list[str]:
    """Test images that are also training images, bit for bit."""
    test = row_digests(raw.test.pixels)
    ours, theirs = _beginnings(train), _beginnings(test)
    near = test[np.isin(theirs, ours)]
    seen = set(map(bytes, train[np.isin(ours, _beginnings(near))]))
    shared = sum(bytes(digest) in seen for digest in near)
    return [f"{shared} test images are also training images; test accuracies are too high"] if shared else []


def _beginnings(digests: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The first eight bytes of digests (n, 12) as numbers, so that millions are compared without an object each."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]


def _fingerprint(raw: RawData, train: np.ndarray[Any, Any]) -> str:
    """The order of images within a class does not matter, so that neither does the order of folders."""
    digest = hashlib.sha256(repr((raw.info.classes, tuple(raw.train.pixels.shape[1:]))).encode())
    pairs = np.empty((len(train), 4 + DIGEST_BYTES), np.uint8)
    pairs[:, :4] = raw.train.labels.numpy().astype(">u4")[:, None].view(np.uint8)
    pairs[:, 4:] = train
    first, second = pairs.view(">u8").T
    digest.update(pairs[np.lexsort((second, first))].data)
    return digest.hexdigest()


def _held_out(labels: Tensor, classes: int, fraction: float, fingerprint: str) -> Tensor:
    """(n,) bool: floor(fraction * n_c) images of each class, at least one when there are two."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    if not fraction:
        return mask
    for label in range(classes):
        members = (labels == label).nonzero().flatten()
        count = min(len(members) - 1, max(1, int(fraction * len(members))))
        order = torch.randperm(len(members), generator=seeding.generator(0, "validation", fingerprint, label))
        mask[members[order[:count]]] = True
    return mask
