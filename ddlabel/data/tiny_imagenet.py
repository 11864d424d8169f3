"""Tiny-ImageNet: 110,000 photographs of 200 classes at 64 px, in the folders of Stanford's archive (CS231n)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..events import OnEvent
from ._dataset import RawData, require_path
from ._listing import Entry, class_pictures, shown
from ._published import WORDNET_ID, Listing, files_key, load_published

__all__ = ["DATASET"]

SIDE = 64
MAX_LIST_BYTES = 64 * 2**20
IDS = "wnids.txt"
ANNOTATIONS = "val_annotations.txt"


class TinyImageNet:
    """`tiny-imagenet:DIR`: wnids.txt, train/WNID/images/*.JPEG, val/images/*.JPEG named by val/val_annotations.txt.

    Labels are those of sorted WordNet ids, not of the order of wnids.txt; the validation images are the test split.
    Pictures of the published test split, which have no labels, are not read.
    """

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Decode, or take from the cache.

        Raises:
            DataError: files that are missing or do not fit together, unreadable pictures: with the path.
        """
        given = require_path("tiny-imagenet", path, "DIR")
        return load_published("tiny-imagenet", given, _Folders(Path(given)), size or SIDE, on_event)


@dataclass(frozen=True)
class _Folders:
    root: Path

    def key(self) -> str:
        return files_key([self.root / IDS, self.root / "train", self.root / "val"])

    def pictures(self) -> Listing:
        classes = self._classes()
        train = [class_pictures(self.root, "train", name, "images") for name in classes]
        return Listing(classes=classes, train=train, test=self._test(classes))

    def _classes(self) -> tuple[str, ...]:
        """All of wnids.txt, sorted."""
        found: set[str] = set()
        for line, (name, *more) in self._lines(IDS):
            if more or not WORDNET_ID.fullmatch(name) or name in found:
                raise DataError(f"{line}: '{shown(name)}', expected a WordNet id, each once", field="data")
            found.add(name)
        return tuple(sorted(found))

    def _test(self, classes: tuple[str, ...]) -> list[list[Entry]]:
        """Validation images by class: each must have its line, and each line its image."""
        entries = {entry.file: entry for entry in class_pictures(self.root, "val", "images")}
        labels = {name: label for label, name in enumerate(classes)}
        found: list[list[Entry]] = [[] for _ in classes]
        for line, (file, *fields) in self._lines(f"val/{ANNOTATIONS}"):
            if not fields or fields[0] not in labels:
                named = f"'{shown(fields[0])}'" if fields else "nothing"
                raise DataError(f"{line}: class {named}, expected a WordNet id of {IDS}", field="data")
            entry = entries.pop(file, None)
            if entry is None:
                raise DataError(f"{line}: '{shown(file)}' is not in val/images, or named twice", field="data")
            found[labels[fields[0]]].append(entry)
        if entries:
            first = next(iter(entries.values()))
            raise DataError(f"{first.shown('')}: not named by {ANNOTATIONS}", field="data")
        return found

    def _lines(self, name: str) -> Iterator[tuple[str, list[str]]]:
        """What to call each line that is not empty, and its fields between tabs."""
        file = self.root / name
        if not file.is_file():
            raise DataError(
                f"{file}: no such file, expected the folders of Stanford's archive",
                field="data",
                hint="unpack tiny-imagenet-200.zip and name its folder tiny-imagenet-200",
            )
        if file.stat().st_size > MAX_LIST_BYTES:
            raise DataError(f"{file}: has {file.stat().st_size} bytes, expected a list of names", field="data")
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file} line {number}", line.rstrip().split("\t")


DATASET = TinyImageNet()
