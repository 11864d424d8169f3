"""ImageNet-1K (ILSVRC 2012) and sets of some of its classes, in folders or tar files that are named by WordNet ids."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, UsageError
from ..events import OnEvent
from ._dataset import RawData, require_path
from ._listing import Entry, class_pictures, list_pictures
from ._published import Layout, Listing, files_key, key_of, load_published
from .folder import readable, sources_of

__all__ = ["ImageNet"]

SPLITS = ("train", "val")
CLASSES = 1000
CLASSES_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""Of the 1,000 WordNet ids, sorted, a line each."""


@dataclass(frozen=True, kw_only=True)
class ImageNet:
    """Photographs resized to squares: `train/WNID/FILE` and `val/WNID/FILE`, as folders or in tar files."""

    name: str
    classes: tuple[str, ...] = ()
    """WordNet ids in label order; empty: all 1,000, sorted. Pictures of other classes are not looked at."""

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Decode the pictures of these classes, or take them from the cache.

        Raises:
            DataError: missing folders or classes, unreadable pictures: with the path.
            UsageError: no path or no size.
        """
        given = require_path(self.name, path, "DIR")
        if size is None:
            raise UsageError(
                f"data '{self.name}' needs --size, its pictures have many sizes",
                field="size",
                hint="such as --size 128",
            )
        with readable(given):
            sources = sources_of(Path(given))
        folders = sources[0].is_dir()
        layout: Layout = _Folders(sources[0], self.classes) if folders else _Archives(given, sources, self.classes)
        return load_published(self.name, given, layout, size, on_event)


@dataclass(frozen=True)
class _Folders:
    """A directory: only the folders of the classes are looked at, and never ImageNet's own `test/`, without classes."""

    root: Path
    classes: tuple[str, ...]

    def key(self) -> str:
        classes = self.classes or _names(self.root / "train")
        return key_of(*classes, *(files_key([self.root / split / name for name in classes]) for split in SPLITS))

    def pictures(self) -> Listing:
        classes = self.classes or _all_classes(_names(self.root / "train"), str(self.root / "train"))
        train, test = ([class_pictures(self.root, split, name) for name in classes] for split in SPLITS)
        return Listing(classes=classes, train=train, test=test)


@dataclass(frozen=True)
class _Archives:
    """Tar files, read in place."""

    path: str
    sources: list[Path]
    classes: tuple[str, ...]

    def key(self) -> str:
        return key_of(*self.classes, files_key(self.sources))

    def pictures(self) -> Listing:
        splits = list_pictures(self.sources)
        classes = self.classes or _all_classes(tuple(dict.fromkeys(entry.label for entry in splits[0])), self.path)
        train, test = (self._of(classes, part, entries) for part, entries in zip(SPLITS, splits, strict=True))
        return Listing(classes=classes, train=train, test=test)

    def _of(self, classes: tuple[str, ...], part: str, entries: list[Entry]) -> list[list[Entry]]:
        found: dict[str, list[Entry]] = {name: [] for name in classes}
        for entry in entries:
            if entry.label in found:
                found[entry.label].append(entry)
        missing = next((name for name, members in found.items() if not members), None)
        if missing:
            raise DataError(f"{self.path}: no pictures {part}/{missing}/FILE in the tar files", field="data")
        return list(found.values())


def _names(folder: Path) -> tuple[str, ...]:
    """Folders in a folder, sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected training images in it", field="data")
    return tuple(sorted(item.name for item in folder.iterdir() if not item.name.startswith(".") and item.is_dir()))


def _all_classes(names: tuple[str, ...], path: str) -> tuple[str, ...]:
    """The names, when they are those of all classes."""
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
    if digest != CLASSES_SHA256:
        found = f"{len(names)} classes" if len(names) != CLASSES else "other names"
        raise DataError(
            f"{path}: {found}, expected ImageNet-1K's {CLASSES}, named by WordNet ids such as n01440764",
            field="data",
            hint="use folder:PATH for other classes, or imagenet-nette and its like for ten of them",
        )
    return names
