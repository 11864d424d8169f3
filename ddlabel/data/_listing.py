"""Which pictures a directory or tar files hold, and their bytes, one picture at a time."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from ..errors import DataError
from ._images import EXTENSIONS, Picture

__all__ = ["TEST_NAMES", "Entry", "list_pictures", "read_pictures", "shown"]

TEST_NAMES = ("test", "val")
MAX_PICTURE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture of one split, not yet read. A million of them are in memory at once."""

    split: str
    label: str
    file: str
    home: Path
    """Folder of the class, or the tar file; one object for all that share it."""
    part: str = ""
    """In a tar file: the split as it is called there."""
    offset: int = 0
    size: int = 0

    def shown(self, path: str) -> str:
        """What messages call it; `path` is what the user calls the data set."""
        if self.part:
            return shown(f"{path}: {self.split}/{self.label}/{self.file}")
        return shown(str(self.home / self.file))


def list_pictures(sources: Iterable[Path]) -> tuple[list[Entry], list[Entry]]:
    """Training and test pictures of a directory or of tar files, by the bytes of class and file name.

    Raises:
        DataError: missing folders, empty classes, hostile links and archives: with the path.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for source in sources:
        for entry in _walk_directory(source) if source.is_dir() else _walk_tar(source):
            groups.setdefault((entry.split, entry.label), []).append(entry)
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    for split, label in sorted(groups, key=lambda group: os.fsencode(group[1])):
        members = groups.pop((split, label))
        members.sort(key=lambda entry: os.fsencode(entry.file))
        _check_once(members)
        splits[split] += members
    return splits["train"], splits["test"]


def read_pictures(entries: Iterable[Entry], path: str) -> Iterator[Picture]:
    """Pictures one after the other; `path` is what the user calls the data set.

    Raises:
        DataError: one cannot be read, naming it.
    """
    with contextlib.ExitStack() as stack:
        archives: dict[Path, int] = {}
        for entry in entries:
            try:
                if not entry.part:
                    data = _read_file(entry.home / entry.file)
                else:
                    if entry.home not in archives:
                        archives[entry.home] = stack.enter_context(entry.home.open("rb", buffering=0)).fileno()
                    data = os.pread(archives[entry.home], entry.size, entry.offset)
            except OSError as error:
                raise DataError(f"{entry.shown(path)}: cannot be read ({error.strerror})", field="data") from error
            yield Picture(entry.shown(path), data)


def _read_file(path: Path) -> bytes:
    """All of a plain file; a pipe among the pictures must not keep us waiting."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{shown(str(path))}: no regular file, expected a picture", field="data")
        if status.st_size > MAX_PICTURE_BYTES:
            raise DataError(f"{shown(str(path))}: has {status.st_size} bytes, expected a picture", field="data")
        return file.read()


def shown(name: str) -> str:
    """A file name that can be printed."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _check_once(members: list[Entry]) -> None:
    """Refuse a file that a tar file holds twice; members are sorted by file."""
    for _file, group in groupby((entry for entry in members if entry.part), key=lambda entry: entry.file):
        seen: set[tuple[Path, str]] = set()
        for entry in group:
            if (entry.home, entry.part) in seen:
                name = f"{entry.part}/{entry.label}/{entry.file}"
                raise DataError(f"{entry.home}: member '{shown(name)}' occurs twice", field="data")
            seen.add((entry.home, entry.part))


def _walk_directory(root: Path) -> Iterator[Entry]:
    splits = ["train", *(name for name in TEST_NAMES if (root / name).is_dir())][:2]
    for split in splits:
        folder = root / split
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder, expected training images in it", field="data")
        _check_link(folder, root)
        labels = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        labels = [label for label in labels if _is_directory(label, root)]
        if not labels:
            raise DataError(f"{folder}: no class folders, expected one folder of images per class", field="data")
        for label in labels:
            yield from _walk_class(root, split, label)
    if len(splits) < 2:
        raise DataError(f"{root}: no 'test' or 'val' folder beside 'train'", field="data")


def _walk_class(root: Path, split: str, label: Path) -> Iterator[Entry]:
    with os.scandir(label) as items:
        files = [item for item in items if not item.name.startswith(".") and _is_picture(item.name)]
    if not files:
        raise DataError(f"{label}: no images, expected at least one", field="data")
    for item in sorted(files, key=lambda item: item.name):
        if item.is_symlink():
            _check_link(label / item.name, root)
        yield Entry("train" if split == "train" else "test", label.name, item.name, label)


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


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


def _walk_tar(path: Path) -> Iterator[Entry]:
    """Members `[.../]SPLIT/CLASS/FILE`: where they lie, in one pass over their headers."""
    names: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
                if member.size < 0:  # else the next header is this one, for ever
                    raise DataError(f"{path}: member '{shown(member.name)}' has {member.size} bytes", field="data")
                parts = _member_parts(member, path)
                if parts is None:
                    continue
                if member.issparse():
                    raise DataError(f"{path}: member '{shown(member.name)}' is sparse, expected plain files")
                part, label = (names.setdefault(name, name) for name in parts[:2])
                split = "train" if part == "train" else "test"
                yield Entry(split, label, parts[2], path, part, member.offset_data, member.size)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a readable tar file ({error})", field="data") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})", field="data") from error


def _member_parts(member: tarfile.TarInfo, path: Path) -> tuple[str, str, str] | None:
    """Split, class and file of a member; None for what is no picture in a split."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: member '{shown(member.name)}' points outside the archive", field="data")
    if member.isdir():
        return None
    if not member.isfile():
        raise DataError(f"{path}: member '{shown(member.name)}' is a link or device, expected files", field="data")
    parts = [part for part in name.parts if part != "."]
    if len(parts) < 3 or parts[-3] not in ("train", *TEST_NAMES):
        return None
    if parts[-1].startswith(".") or not _is_picture(parts[-1]):
        return None
    if member.size > MAX_PICTURE_BYTES:
        raise DataError(f"{path}: member '{shown(member.name)}' has {member.size} bytes", field="data")
    return parts[-3], parts[-2], parts[-1]
