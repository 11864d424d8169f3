"""The file that decoded images are kept in: written row by row, continued after a kill, believed only when whole.

    magic and JSON header, 4096 bytes   shape of an image, how many images, how many of them are for training
    images                              uint8, one after the other, in (c, h, w) order
    labels                              int64, one each
    digests                             12 bytes of blake2b each
    counts                              int64 (c, 256): how often training images have each value
    notes                               JSON
    sha256                              of header, labels, digests, counts and notes

All numbers are little-endian. An unfinished file has the header and the first images; their digests are in a second
file beside it, so that the next run keeps every image that got to the disk and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._stored_pixels import DIGEST_BYTES, PixelFile, StoredPixels

__all__ = ["HEADER_BYTES", "LEVELS", "Contents", "Head", "open_pixels", "value_counts"]

MAGIC = b"ddlabel pixels 1\n"
HEADER_BYTES = 4096
LEVELS = 256
"""Values of a pixel."""


@dataclass(frozen=True)
class Contents:
    """A decoded data set."""

    pixels: StoredPixels
    """Training images, then test images."""
    labels: Tensor
    """(n,) int64."""
    train: int
    """How many are training images."""
    counts: Tensor
    """(c, 256) int64: how often training images have each value."""
    notes: dict[str, str]


@dataclass(frozen=True)
class Head:
    """What the header says."""

    shape: tuple[int, int, int]
    images: int
    train: int

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def end(self) -> int:
        """Where the images end."""
        return HEADER_BYTES + self.images * self.row_bytes

    def to_bytes(self) -> bytes:
        """The header."""
        said = json.dumps({"shape": self.shape, "images": self.images, "train": self.train}, sort_keys=True)
        return (MAGIC + said.encode()).ljust(HEADER_BYTES)

    @classmethod
    def read(cls, data: bytes) -> Head | None:
        """None of anything else than a header."""
        if len(data) != HEADER_BYTES or not data.startswith(MAGIC):
            return None
        try:
            said = json.loads(data[len(MAGIC) :])
            channels, height, width = said["shape"]
            head = cls((channels, height, width), said["images"], said["train"])
        except (ValueError, KeyError, TypeError):
            return None
        whole = all(type(number) is int and number > 0 for number in (*head.shape, head.images))
        return head if whole and type(head.train) is int and 0 <= head.train <= head.images else None


def open_pixels(path: Path) -> Contents | None:
    """What a finished file holds, no image read; None when there is none, or it is unfinished or damaged."""
    try:
        with path.open("rb") as file:
            first = file.read(HEADER_BYTES)
            head = Head.read(first)
            if head is None or os.fstat(file.fileno()).st_size < head.end:
                return None
            file.seek(head.end)
            rest = file.read()
        known = 8 * head.images + DIGEST_BYTES * head.images + 8 * head.shape[0] * LEVELS
        if len(rest) < known + 32 or rest[-32:] != hashlib.sha256(first + rest[:-32]).digest():
            return None
        labels = np.frombuffer(rest, "<i8", head.images).astype(np.int64)
        digests = np.frombuffer(rest, np.uint8, DIGEST_BYTES * head.images, 8 * head.images)
        counts = np.frombuffer(rest, "<i8", head.shape[0] * LEVELS, (8 + DIGEST_BYTES) * head.images).astype(np.int64)
        stored = PixelFile(path, HEADER_BYTES, head.shape, digests.reshape(-1, DIGEST_BYTES).copy())
        return Contents(
            StoredPixels(stored, torch.arange(head.images)),
            torch.from_numpy(labels),
            head.train,
            torch.from_numpy(counts).reshape(-1, LEVELS),
            json.loads(rest[known:-32]),
        )
    except (OSError, ValueError):
        return None


def value_counts(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How often each value occurs in each channel of an image (c, h, w): (c, 256) int64."""
    return np.stack([np.bincount(plane.reshape(-1), minlength=LEVELS) for plane in row])
