"""Photographs that lie as their publishers gave them out, with published constants: decoded once, and cached."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import DataError
from ..events import OnEvent
from ._dataset import DatasetInfo, RawData
from ._decoded import Source, cached, decoded
from ._images import decode
from ._listing import Entry, read_pictures
from .folder import readable, source_key

__all__ = ["WORDNET_ID", "Layout", "Listing", "files_key", "key_of", "load_published"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, for its subsets and Tiny-ImageNet too."""
LICENCE = "ImageNet's terms of access: research and education, not commercial"
WORDNET_ID = re.compile(r"n[0-9]{8}")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which pictures a set has, not yet read."""

    classes: tuple[str, ...]
    """WordNet ids in label order: what `folder:` calls the same classes."""
    train: list[list[Entry]]
    """By class."""
    test: list[list[Entry]]


class Layout(Protocol):
    """Where the pictures of a set lie."""

    def key(self) -> str:
        """Names, sizes and times of the files that are used, in short; never where they lie."""
        ...

    def pictures(self) -> Listing:
        """Look the pictures up.

        Raises:
            DataError: something is missing or superfluous: with the path.
        """
        ...


def load_published(name: str, path: str, layout: Layout, size: int, on_event: OnEvent) -> RawData:
    """Three-channel images of one size.

    Args:
        name: of the data set.
        path: what the user calls it, for messages.
        layout: where its pictures lie.
        size: side in pixels.
        on_event: told of progress.

    Raises:
        DataError: missing folders or classes, unreadable pictures, files that change meanwhile: with the path.
    """
    with readable(path):
        files = layout.key()
    key = key_of(name, size, files)
    found = cached(key) or decoded(key, _source(layout, files, path, size), on_event)
    info = DatasetInfo(
        name=name,
        classes=tuple(json.loads(found.notes["classes"])),
        channels=found.pixels.shape[1],
        height=found.pixels.shape[2],
        width=found.pixels.shape[3],
        mean=MEAN,
        std=STD,
        flip=True,
        licence=LICENCE,
    )
    return RawData(info, found.train, found.test)


def key_of(*parts: object) -> str:
    """One key of several things that images depend on."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:40]


def files_key(sources: list[Path]) -> str:
    """Names, sizes and times of files and of all that directories hold, each source apart."""
    return key_of(*(source_key([source], None) for source in sources))


def _source(layout: Layout, files: str, path: str, size: int) -> Source:
    """Training images first, then test images, each by label and file name.

    Reading the last one fails when the files have become others than those of the key meanwhile.
    """
    with readable(path):
        listing = layout.pictures()
    ordered = [*chain(*listing.train), *chain(*listing.test)]
    labels = [label for split in (listing.train, listing.test) for label, members in enumerate(split) for _ in members]

    def images(start: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        for picture in read_pictures(ordered[start:], path):
            image = decode(picture, size)
            yield picture.name, np.repeat(image, 3, axis=0) if len(image) == 1 else image
        with readable(path):
            now = layout.key()
        if now != files:
            raise DataError(f"{path}: changed while it was read", field="data", hint="run again when it is complete")

    return Source(
        images=images,
        first=ordered[0].shown(path),
        labels=torch.tensor(labels),
        train=sum(map(len, listing.train)),
        notes={"classes": json.dumps(listing.classes)},
    )
