"""Own pictures: `train/` and `test/` (or `val/`) with one folder per class, as a directory or as tar files."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ..errors import DataError
from ..events import OnEvent
from ._cache import VERSION, read_cache, write_cache
from ._dataset import DatasetInfo, RawData, Split, require_path, statistics
from ._images import EXTENSIONS, Picture, decode_all

__all__ = ["DATASET", "load_folder"]

TEST_NAMES = ("test", "val")
MAX_PICTURE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Entry:
    """A picture of one split, not yet read."""

    split: str
    label: str
    file: str
    data: bytes | Path

    @property
    def order(self) -> tuple[bytes, bytes]:
        return os.fsencode(self.label), os.fsencode(self.file)


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
    sources = _sources(Path(path))
    key = _cache_key(sources, size)
    cached = read_cache(key) or _cached_at_own_size(sources, size)
    if cached is None:
        entries = sorted(_walk(sources), key=lambda entry: (entry.split, entry.order))
        pixels, labels, notes = _decode(entries, size, path, on_event)
        write_cache(key, pixels, labels, notes, on_event)
    else:
        pixels, labels, notes = cached
    classes, train_count = tuple(json.loads(notes["classes"])), int(notes["train"])
    train = Split(pixels[:train_count], labels[:train_count])
    test = Split(pixels[train_count:], labels[train_count:])
    mean, std = statistics(train.pixels)
    info = DatasetInfo(
        name=name.removesuffix(".tar"),
        classes=classes,
        channels=pixels.shape[1],
        height=pixels.shape[2],
        width=pixels.shape[3],
        mean=mean,
        std=std,
        flip=True,
        licence="unknown",
    )
    return RawData(info, train, test)


def _cached_at_own_size(sources: list[Path], size: int | None) -> tuple[Tensor, Tensor, dict[str, str]] | None:
    """Pictures decoded without resizing, when they have the size that is asked for."""
    cached = None if size is None else read_cache(_cache_key(sources, None))
    return cached if cached is not None and tuple(cached[0].shape[2:]) == (size, size) else None


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


def _walk(sources: list[Path]) -> Iterator[_Entry]:
    for source in sources:
        yield from _walk_directory(source) if source.is_dir() else _walk_tar(source)


def _walk_directory(root: Path) -> Iterator[_Entry]:
    splits = ["train", *(name for name in TEST_NAMES if (root / name).is_dir())][:2]
    for split in splits:
        folder = root / split
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder, expected training images in it", field="data")
        labels = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        labels = [label for label in labels if _is_directory(label, root)]
        if not labels:
            raise DataError(f"{folder}: no class folders, expected one folder of images per class", field="data")
        for label in labels:
            yield from _walk_class(root, split, label)
    if len(splits) < 2:
        raise DataError(f"{root}: no 'test' or 'val' folder beside 'train'", field="data")


def _walk_class(root: Path, split: str, label: Path) -> Iterator[_Entry]:
    try:
        files = sorted(label.iterdir())
    except PermissionError as error:
        raise DataError(f"{label}: may not be read ({error.strerror})", field="data") from error
    pictures = [file for file in files if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")]
    if not pictures:
        raise DataError(f"{label}: no images, expected at least one", field="data")
    for file in pictures:
        _check_link(file, root)
        yield _Entry("train" if split == "train" else "test", label.name, file.name, file)


def _is_directory(path: Path, root: Path) -> bool:
    _check_link(path, root)
    return path.is_dir()


def _check_link(path: Path, root: Path) -> None:
    """Refuse symbolic links that loop or leave the data set."""
    if not path.is_symlink():
        return
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: a symbolic link that leads nowhere or in circles", field="data") from error
    if not target.is_relative_to(root.resolve()):
        raise DataError(f"{path}: a symbolic link out of {root}, expected files inside it", field="data")


def _walk_tar(path: Path) -> Iterator[_Entry]:
    """Members `[.../]SPLIT/CLASS/FILE`, read in one pass."""
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                parts = _member_parts(member, path)
                if parts is None:
                    continue
                name = "/".join(parts)
                if name in seen:
                    raise DataError(f"{path}: member '{_shown(member.name)}' occurs twice", field="data")
                seen.add(name)
                stream = archive.extractfile(member)
                if stream is None:
                    raise DataError(f"{path}: member '{_shown(member.name)}' cannot be read", field="data")
                split = "train" if parts[0] == "train" else "test"
                yield _Entry(split, parts[1], parts[2], stream.read())
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: not a readable tar file ({error})", field="data") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", field="data") from error


def _member_parts(member: tarfile.TarInfo, path: Path) -> tuple[str, str, str] | None:
    """Split, class and file of a member; None for what is no picture in a split."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: member '{_shown(member.name)}' points outside the archive", field="data")
    if member.isdir():
        return None
    if not member.isfile():
        raise DataError(f"{path}: member '{_shown(member.name)}' is a link or device, expected files", field="data")
    parts = [part for part in name.parts if part != "."]
    if len(parts) < 3 or parts[-3] not in ("train", *TEST_NAMES):
        return None
    if parts[-1].startswith(".") or name.suffix.lower() not in EXTENSIONS:
        return None
    if member.size > MAX_PICTURE_BYTES:
        raise DataError(f"{path}: member '{_shown(member.name)}' has {member.size} bytes", field="data")
    return parts[-3], parts[-2], parts[-1]


def _decode(
    entries: list[_Entry], size: int | None, path: str, on_event: OnEvent
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Training images first, then test images, each by class and file name."""
    train = [entry for entry in entries if entry.split == "train"]
    test = [entry for entry in entries if entry.split == "test"]
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
        raise DataError(f"{path}: class '{_shown(unknown[0])}' has test images but no training images", field="data")
    ordered = [*train, *test]
    pictures = (_picture(entry, path) for entry in ordered)
    pixels = decode_all(pictures, len(ordered), size, on_event)
    index = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([index[entry.label] for entry in ordered])
    return pixels, labels, {"classes": json.dumps(classes), "train": str(len(train))}


def _picture(entry: _Entry, path: str) -> Picture:
    name = f"{path}: {entry.split}/{entry.label}/{entry.file}"
    if isinstance(entry.data, bytes):
        return Picture(_shown(name), entry.data)
    try:
        return Picture(_shown(str(entry.data)), entry.data.read_bytes())
    except OSError as error:
        raise DataError(f"{_shown(str(entry.data))}: cannot be read ({error.strerror})", field="data") from error


def _shown(name: str) -> str:
    """A file name that can be printed."""
    return os.fsencode(name).decode(errors="backslashreplace")


DATASET = Folder()
