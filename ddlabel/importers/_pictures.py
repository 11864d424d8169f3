"""Pictures in class folders as one uint8 tensor: the layout of RDED, SRe2L and torchvision's ImageFolder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data._images import EXTENSIONS, Picture, decode
from ..errors import BundleError
from ._sources import Sources, entries_of, shown

__all__ = ["Pictures", "has_class_folders", "read_pictures", "stack"]

NUMBER = re.compile(r"(?:new|class)?_?([0-9]{1,6})|([0-9]{5})_[A-Za-z0-9_-]+")
"""Names of folders that are class numbers: RDED's 00000, SRe2L's new000, 00000_name of `ddlabel export`."""
MAX_PICTURE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Pictures:
    """All pictures, by class and file name."""

    pixels: Tensor
    """(n, c, h, w) uint8; one channel only when every picture is grey."""
    labels: Tensor
    """(n,) int64: class numbers, or places of `classes`."""
    classes: tuple[str, ...] | None
    """Names of the folders by their bytes; None where they are class numbers."""


def has_class_folders(folder: Path) -> bool:
    """Whether a folder holds folders, one of which holds a picture."""
    if not folder.is_dir():
        return False
    folders = [entry for entry in entries_of(folder) if entry.is_dir(follow_symlinks=False)]
    return any(_is_picture(entry.name) for each in folders for entry in entries_of(Path(each.path)))


def read_pictures(sources: Sources, root: Path) -> Pictures:
    """Every picture of every class folder.

    Raises:
        BundleError: no pictures, a symbolic link, pictures of several sizes, a folder whose name is no UTF-8.
        DataError: a picture that cannot be read.
    """
    folders = [entry for entry in entries_of(root) if entry.is_dir(follow_symlinks=False) or entry.is_symlink()]
    _check_links(folders)
    names = [entry.name for entry in folders]
    numbers = [NUMBER.fullmatch(name) for name in names]
    by_number = bool(numbers) and all(numbers)
    images: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
    labels: list[int] = []
    order = [int(match[1] or match[2]) if match and by_number else place for place, match in enumerate(numbers)]
    if len(set(order)) < len(order):
        raise BundleError(f"{shown(root)}: two folders stand for the same class number")
    for label, entry in sorted(zip(order, folders, strict=True), key=lambda pair: pair[0]):
        found = _read_class(sources, Path(entry.path))
        images += found
        labels += [label] * len(found)
    if not images:
        raise BundleError(f"{shown(root)}: no pictures in class folders, expected CLASS/PICTURE.png or .jpg")
    classes = None if by_number else tuple(_utf8(name) for name in names)
    return Pictures(stack(images, shown(root)), torch.tensor(labels), classes)


def _read_class(sources: Sources, folder: Path) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    files = [entry for entry in entries_of(folder) if _is_picture(entry.name)]
    _check_links(files)
    found = []
    for entry in files:
        name = f"{shown(folder)}/{shown(entry.name)}"
        data = sources.read(Path(entry.path), limit=MAX_PICTURE_BYTES, name=name)
        found.append(decode(Picture(name, bytes(data)), None))
    return found


def stack(images: Sequence[np.ndarray[Any, Any]], name: str) -> Tensor:
    """Pictures (1 or 3, h, w) uint8 as one tensor (n, c, h, w); grey ones get colours where there are others.

    Raises:
        BundleError: of several sizes.
    """
    sizes = {image.shape[1:] for image in images}
    if len(sizes) > 1:
        first, second = sorted(sizes)[:2]
        raise BundleError(
            f"{name}: pictures of {first[1]} x {first[0]} and {second[1]} x {second[0]} px, expected one size",
            hint="resize them first",
        )
    channels = max(len(image) for image in images)
    full = [np.broadcast_to(image, (channels, *image.shape[1:])) for image in images]
    return torch.from_numpy(np.stack(full))


def _check_links(entries: list[os.DirEntry[str]]) -> None:
    links = [entry.name for entry in entries if entry.is_symlink()]
    if links:
        raise BundleError(f"{shown(links[0])}: a symbolic link, expected plain files and folders")


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BundleError(f"class folder {shown(name)} is not UTF-8, expected a readable name") from None
    return name
