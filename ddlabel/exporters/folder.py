"""PNG pictures in one folder per class, as ImageFolder of torchvision reads them.

`CLASS/IMAGE.png`: CLASS is the five-digit index of the class with what can be kept of its name, IMAGE the six-digit
index of the image in the bundle, so that readers that sort by name find classes and images in the bundle's order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ._exporter import Content, Description, Exporter, Open, check_channels
from ._lost import lost_labels, lost_pictures, lost_sections

__all__ = ["EXPORTER", "class_folders"]

_LONGEST = 60
"""Characters kept of a class name."""


def class_folders(classes: Sequence[str]) -> list[str]:
    """Folder names of classes: never longer than 66 characters of `A-Z a-z 0-9 . _ -`, unique, in label order.

    >>> class_folders(["tabby cat", "../../etc", "犬"])
    ['00000_tabby_cat', '00001_etc', '00002']
    """
    cleaned = (re.sub(r"[^A-Za-z0-9-]+", "_", name)[:_LONGEST].strip("_-") for name in classes)
    return [f"{index:05d}_{name}" if name else f"{index:05d}" for index, name in enumerate(cleaned)]


class Folder(Exporter):
    """Labels are the folders; nothing but hard labels fits."""

    has_pictures: ClassVar[bool] = True

    def check(self, content: Content) -> None:
        """Pictures have 1 or 3 channels."""
        check_channels(content, "folder")

    def describe(self, content: Content) -> Description:
        """Pictures by class."""
        names = class_folders(content.stored.classes)
        present = set(content.stored.labels.tolist())
        empty = [name for index, name in enumerate(names) if index not in present]
        lost = [*lost_pictures(content), *lost_labels(content), *lost_sections(content)]
        if empty:
            lost.append(
                f"{len(empty)} of {len(names)} classes have no images; their folders are empty, ImageFolder needs "
                "allow_empty=True"
            )
        return Description(
            images={"in": "CLASS/IMAGE.png", **(content.pictures.record() if content.pictures else {})},
            labels={"hard": {"in": "folders"}},
            lost=tuple(lost),
            more={"classes": {"folder": names}},
        )

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """One file per image."""
        from ._pictures import png

        del document
        if content.pictures is None:
            raise ValueError("a folder holds pictures, and none were drawn")
        names = class_folders(content.stored.classes)
        for index, label in enumerate(content.stored.labels.tolist()):
            with file(f"{names[label]}/{index:06d}.png") as stream:
                stream.write(png(content.pictures.pixels[index]))
            content.step(index + 1)


EXPORTER = Folder()
