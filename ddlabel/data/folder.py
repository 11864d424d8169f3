"""Own pictures: `train/` and `test/` (or `val/`) with one folder per class, as a directory or as tar files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..events import OnEvent
from ._dataset import DatasetInfo, RawData, require_path, statistics_of
from ._decoded import VERSION, Decoded, Source, cached, decoded
from ._images import decode
from ._listing import TEST_NAMES, list_pictures, read_pictures, shown

__all__ = ["DATASET", "load_folder"]


class Folder:
    """`folder:PATH`: a directory, a tar file, or the common beginning of tar files.

    PATH may be a directory with `train/` and `test/` (or `val/`); a directory with `train.tar` and `test.tar`; one
    tar file that holds both; or a name such that PATH.tar, or PATH-train.tar and PATH-test.tar (or -val.tar), exist.
    Classes and files are sorted by their bytes. Symbolic links that leave the directory are refused.
    """

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Read and decode, or take the decoded images from the cache."""
        given = require_path("folder", path, "DIR")
        return load_folder(given, size, on_event, name=Path(given.rstrip("/")).name)


def load_folder(path: str, size: int | None, on_event: OnEvent, *, name: str) -> RawData:
    """Pictures in class folders as a data set.

    Raises:
        DataError: missing folders, empty classes, unreadable pictures, mixed sizes, hostile archives: with the path.
    """
    with _readable(path):
        sources = _sources(Path(path))
        key = _cache_key(sources, size)
        found = cached(key) or _cached_at_own_size(sources, size)
        if found is None:
            source = _source(sources, size, path, key)
    if found is None:
        found = decoded(key, source, on_event)
    mean, std = statistics_of(found.counts)
    info = DatasetInfo(
        name=name.removesuffix(".tar"),
        classes=tuple(json.loads(found.notes["classes"])),
        channels=found.pixels.shape[1],
        height=found.pixels.shape[2],
        width=found.pixels.shape[3],
        mean=mean,
        std=std,
        flip=True,
        licence="unknown",
    )
    return RawData(info, found.train, found.test)


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Words the failures of looking through folders."""
    try:
        yield
    except OSError as error:
        name = shown(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        raise DataError(f"{name}: cannot be read ({error.strerror or error})", field="data") from error


def _cached_at_own_size(sources: list[Path], size: int | None) -> Decoded | None:
    """Pictures decoded without resizing, when they have the size that is asked for."""
    found = None if size is None else cached(_cache_key(sources, None))
    return found if found is not None and tuple(found.pixels.shape[2:]) == (size, size) else None


def _sources(path: Path) -> list[Path]:
    """The directory or the tar files that a path means."""
    if path.is_dir():
        tars = [path / "train.tar", *(path / f"{name}.tar" for name in TEST_NAMES)]
        found = [tar for tar in tars if tar.is_file()]
        return found if len(found) >= 2 and not (path / "train").is_dir() else [path]
    if path.is_file():
        return [path]
    whole = path.with_name(path.name + ".tar")
    if whole.is_file():
        return [whole]
    parts = [path.with_name(f"{path.name}-{part}.tar") for part in ("train", *TEST_NAMES)]
    found = [part for part in parts if part.is_file()]
    if len(found) >= 2:
        return found
    raise DataError(
        f"{path}: no such folder or tar file (also tried {whole.name}, {parts[0].name} with {parts[1].name})",
        field="data",
        hint="expected train/ and test/ with one folder per class",
    )


def _cache_key(sources: list[Path], size: int | None) -> str:
    """What the decoded images depend on: names, sizes and times of the sources, never where they lie."""
    digest = hashlib.sha256(f"{VERSION} {size}".encode())
    for source in sources:
        if source.is_file():
            status = source.stat()
            digest.update(f"{source.name} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape"))
            continue
        for root, folders, files in os.walk(source, followlinks=False):
            folders.sort()
            for file in sorted(files):
                status = os.stat(os.path.join(root, file), follow_symlinks=False)
                relative = os.path.relpath(os.path.join(root, file), source)
                digest.update(os.fsencode(relative) + f" {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:40]


def _source(sources: list[Path], size: int | None, path: str, key: str) -> Source:
    """Training images first, then test images, each by class and file name.

    Reading the last one fails when the sources have become others than those of the key meanwhile.
    """
    train, test = list_pictures(sources)
    if not train or not test:
        raise DataError(
            f"{path}: {len(train)} training and {len(test)} test images found",
            field="data",
            hint="expected train/CLASS/FILE and test/CLASS/FILE (or val/)",
        )
    classes = sorted({entry.label for entry in train}, key=os.fsencode)
    for label in classes:
        try:
            label.encode()
        except UnicodeEncodeError:
            raise DataError(f"{path}: class folder {label!a} is not UTF-8, expected a readable name") from None
    unknown = sorted({entry.label for entry in test} - set(classes), key=os.fsencode)
    if unknown:
        raise DataError(f"{path}: class '{shown(unknown[0])}' has test images but no training images", field="data")
    ordered = [*train, *test]
    index = {label: number for number, label in enumerate(classes)}

    def images(start: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        for picture in read_pictures(ordered[start:], path):
            yield picture.name, decode(picture, size)
        with _readable(path):
            now = _cache_key(sources, size)
        if now != key:
            raise DataError(f"{path}: changed while it was read", field="data", hint="run again when it is complete")

    return Source(
        images=images,
        first=ordered[0].shown(path),
        labels=torch.tensor([index[entry.label] for entry in ordered]),
        train=len(train),
        notes={"classes": json.dumps(classes)},
    )


DATASET = Folder()
