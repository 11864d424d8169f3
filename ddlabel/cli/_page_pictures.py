"""Distilled images on the page: class by class, one small PNG each, enlarged crisply; large ones reduced."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import BundleError
from ._grid import image_png
from ._page import Child, Html, clip, data_uri, note, tag

if TYPE_CHECKING:
    from torch import Tensor

    from ..bundle import Bundle

__all__ = ["pictures"]

PIXELS = "images.pixels"
HARD = "labels.hard"
MOST_IMAGES = 200
"""Of one bundle."""
MOST_BYTES = 2**20
"""Of their pixels, before compression."""
MOST_PER_CLASS = 10
CODES: dict[str, Literal["B", "i", "q"]] = {"U8": "B", "I32": "i", "I64": "q"}
"""Types of stored class indices, as memoryview calls them."""
FEW_CLASSES = 20
"""So many are shown with fewer images each, rather than fewer classes with more."""
TARGET_PX = 64
"""Small images are enlarged by a whole factor to about this side."""
LARGE_PX = 96
"""Images with a longer side are reduced by a whole factor below this."""
READ_WHOLE_BYTES = 2**28
"""Larger tensors are not read to their end: the shown rows alone, and then without their digest."""


@dataclasses.dataclass(frozen=True)
class _Stored:
    """What the images of a bundle are, before any is read."""

    dtype: str
    shape: tuple[int, int, int, int]
    """(n, c, h, w)."""
    sliced: bool
    """Whether single rows are read without the rest."""

    @property
    def reduced(self) -> int:
        """The whole factor by which sides are divided."""
        return math.ceil(max(self.shape[2:]) / LARGE_PX)


def pictures(bundle: Bundle) -> Html | None:
    """The images of a distilled bundle with their class names, as many as a page can bear; None of other bundles.

    Float images are shown through the inverse of their input space, clipped to what a screen can show.

    Raises:
        BundleError: damaged images or labels.
    """
    data = bundle.manifest.data
    if bundle.kind != "distilled" or data is None:
        return None
    stored = _stored(bundle, data)
    channels, height, width = stored.shape[1:]
    if channels not in (1, 3):
        return note(f"Pictures need 1 or 3 channels, these images have {channels}.")
    by_class = _by_class(bundle, stored.shape[0])
    chosen = _choose(by_class, channels * (height // stored.reduced) * (width // stored.reduced))
    rows = [row for own in chosen.values() for row in own]
    drawn = dict(zip(rows, _read(bundle, stored, rows), strict=True))
    classes = data["classes"]
    figures = [_figure(classes[label], [drawn[row] for row in own], stored) for label, own in chosen.items()]
    return Html(tag("div", figures, class_="pictures") + note(_said(chosen, by_class, stored)))


def _stored(bundle: Bundle, data: Mapping[str, int]) -> _Stored:
    section = bundle.section("images")
    record = section.tensors.get(PIXELS)
    if record is None:
        raise BundleError(f"{bundle.name}: section 'images' lacks the tensor '{PIXELS}'", field=PIXELS)
    plain = record.get("packed", record)
    shape, sides = tuple(plain["shape"]), (data["channels"], data["height"], data["width"])
    if len(shape) != 4 or shape[1:] != sides:
        said = f"holds {shape[1:]} images, its data record says {sides}"
        raise BundleError(f"{bundle.name}: '{PIXELS}' {said}", field=PIXELS)
    sliced = "packed" not in record and record["bytes"] > READ_WHOLE_BYTES
    return _Stored(plain["dtype"], (shape[0], *sides), sliced)


def _by_class(bundle: Bundle, count: int) -> dict[int, list[int]]:
    """Rows of every class that has some, in label order."""
    dtype, shape, data = bundle.read(HARD)
    code = CODES.get(dtype)
    if code is None or shape != (count,):
        raise BundleError(f"{bundle.name}: '{HARD}' is {dtype} of {shape}, expected one index an image", field=HARD)
    labels = memoryview(data).cast(code).tolist()
    classes = len((bundle.manifest.data or {})["classes"])
    wrong = next((index for index, label in enumerate(labels) if not 0 <= label < classes), None)
    if wrong is not None:
        said = f"gives image {wrong} class {labels[wrong]}, expected 0 to {classes - 1}"
        raise BundleError(f"{bundle.name}: '{HARD}' {said}", field=HARD)
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return dict(sorted(rows.items()))


def _choose(by_class: Mapping[int, list[int]], image_bytes: int) -> dict[int, list[int]]:
    """The rows to show: the first of each class, and the first classes."""
    room = max(1, min(MOST_IMAGES, MOST_BYTES // max(1, image_bytes)))
    most = max((len(rows) for rows in by_class.values()), default=0)
    each = max(1, min(most, MOST_PER_CLASS, room // max(1, min(len(by_class), FEW_CLASSES))))
    return {label: by_class[label][:each] for label in list(by_class)[: max(1, room // each)]}


def _read(bundle: Bundle, stored: _Stored, rows: Sequence[int]) -> list[bytes]:
    """Planar 8-bit pixels of some rows, in the size they are shown in."""
    channels, height, width = stored.shape[1:]
    if stored.dtype == "U8" and not stored.sliced:
        data, size = bundle.read(PIXELS)[2], channels * height * width
        images = [bytes(data[row * size : (row + 1) * size]) for row in rows]
    else:
        images = [image.numpy().tobytes() for image in _decoded(bundle, stored, rows)] if rows else []
    if stored.reduced == 1:
        return images
    return [_reduce(image, stored) for image in images]


def _decoded(bundle: Bundle, stored: _Stored, rows: Sequence[int]) -> Tensor:
    """Rows as uint8 pixels (m, c, h, w), by the space of the bundle; imports torch."""
    import torch

    from ..preprocess import read_space

    if stored.sliced:
        images = torch.cat([bundle.slice(PIXELS, row, row + 1) for row in rows])
    else:
        images = bundle.tensor(PIXELS)[list(rows)]
    if images.dtype == torch.uint8:
        return images
    if not bool(torch.isfinite(images).all()):
        raise BundleError(f"{bundle.name}: '{PIXELS}' holds NaN or infinity, expected finite images", field=PIXELS)
    return read_space(bundle).to_pixels(images)


def _reduce(image: bytes, stored: _Stored) -> bytes:
    """Means of square blocks; what is left at the right and lower edge is dropped."""
    import numpy as np

    (channels, height, width), factor = stored.shape[1:], stored.reduced
    tall, wide = height // factor, width // factor
    pixels = np.frombuffer(image, np.uint8).reshape(channels, height, width)[:, : tall * factor, : wide * factor]
    means = pixels.reshape(channels, tall, factor, wide, factor).mean(axis=(2, 4), dtype=np.float64)
    return bytes(means.round().astype(np.uint8).tobytes())


def _figure(name: str, images: Sequence[bytes], stored: _Stored) -> Html:
    """The images of one class below its name."""
    name = clip(name)
    channels, height, width = stored.shape[1], *(side // stored.reduced for side in stored.shape[2:])
    factor = max(1, TARGET_PX // max(height, width))
    drawn: list[Child] = [
        tag(
            "img",
            src=data_uri("image/png", image_png(image, channels, height, width)),
            width=width * factor,
            height=height * factor,
            alt=f"distilled image {number} of class {name}",
            class_="crisp" if factor > 1 else "",
        )
        for number, image in enumerate(images, start=1)
    ]
    caption = tag("figcaption", name if name.strip() else "(no name)")
    return tag("figure", caption, tag("div", drawn, class_="images"), class_="one" if len(images) == 1 else "")


def _said(chosen: Mapping[int, list[int]], by_class: Mapping[int, list[int]], stored: _Stored) -> str:
    """How many images are shown, how large, and what is left out."""
    shown, height, width = sum(map(len, chosen.values())), *stored.shape[2:]
    parts = [f"{shown} of {stored.shape[0]} images"]
    if len(chosen) < len(by_class):
        parts.append(f"{len(by_class) - len(chosen)} of {len(by_class)} classes are left out")
    most = max((len(rows) for rows in chosen.values()), default=0)
    if any(len(by_class[label]) > len(rows) for label, rows in chosen.items()):
        parts.append(f"the first {most} of each class are shown" if most > 1 else "the first of each class is shown")
    size = f"{height} x {width} pixels"
    parts.append(f"{size}, reduced {stored.reduced} times" if stored.reduced > 1 else size)
    if stored.sliced:
        parts.append("read without checking their digest, as the tensor is large")
    return "; ".join(parts) + "."
