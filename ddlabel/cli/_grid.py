"""A picture of the images of a bundle: one row per class, written as PNG with the standard library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["grid_png", "image_png", "write_grid"]

GAP_PX = 2
"""Pixels between two images."""
TARGET_PX = 64
"""Small images are enlarged by a whole factor to about this side."""
MAX_COLUMNS = 100
"""Images of one class in a row; further ones continue below."""
PAPER = 255
"""Grey level between the images."""


def write_grid(bundle: Bundle, path: str, *, force: bool) -> None:
    """Draw the images of a distilled bundle, class by class in label order.

    Float images are shown through the inverse of their input space, clipped to what a screen can show.

    Raises:
        BundleError: the bundle has no images.
        UsageError: the file exists and `force` is not set.
    """
    from ..distilled import read_distilled
    from ..fsio import atomic_output

    distilled = read_distilled(bundle)
    pixels = distilled.space.to_pixels(distilled.images).numpy()
    labels = distilled.labels.tolist()
    rows = [
        [pixels[index].tobytes() for index, label in enumerate(labels) if label == wanted]
        for wanted in range(len(distilled.classes))
    ]
    channels, height, width = pixels.shape[1:]
    if channels not in (1, 3):
        raise UsageError(f"a picture needs 1 or 3 channels, {bundle.name} has {channels}", field="grid")
    data = grid_png([row for row in rows if row], channels, height, width)
    with atomic_output(path, force=force) as file:
        file.write(data)


def grid_png(rows: list[list[bytes]], channels: int, height: int, width: int) -> bytes:
    """A PNG of planar 8-bit images.

    Args:
        rows: the images of each row, each `channels * height * width` bytes, channel planes one after the other.
        channels: 1 (grey) or 3 (RGB).
        height, width: of one image, in pixels.

    Returns:
        The file; the same images always give the same bytes.
    """
    factor = max(1, TARGET_PX // max(height, width))
    lines = [row[start : start + MAX_COLUMNS] for row in rows for start in range(0, len(row), MAX_COLUMNS)]
    columns = max(len(line) for line in lines)
    total = columns * (width * factor + GAP_PX) + GAP_PX
    gap = bytes([PAPER]) * (total * channels)
    scanlines = [gap] * GAP_PX
    for line in lines:
        for y in range(height):
            scanlines += [_scanline(line, y, channels, height, width, factor, total)] * factor
        scanlines += [gap] * GAP_PX
    return _png(scanlines, channels, total)


def image_png(image: bytes, channels: int, height: int, width: int) -> bytes:
    """A PNG of one planar 8-bit image at its own size; arguments as of `grid_png`."""
    lines = [_pixels(image, y, channels, height, width) for y in range(height)]
    return _png([b"".join(map(bytes, line)) for line in lines], channels, width)


def _png(scanlines: Sequence[bytes], channels: int, width: int) -> bytes:
    raw = b"".join(b"\0" + scanline for scanline in scanlines)
    colour = 0 if channels == 1 else 2
    header = struct.pack(">IIBBBBB", width, len(scanlines), 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _pixels(image: bytes, y: int, channels: int, height: int, width: int) -> Iterator[tuple[int, ...]]:
    """One line of an image, its channels side by side."""
    planes = [image[(c * height + y) * width : (c * height + y + 1) * width] for c in range(channels)]
    return zip(*planes, strict=True)


def _scanline(line: list[bytes], y: int, channels: int, height: int, width: int, factor: int, total: int) -> bytes:
    paper = bytes([PAPER]) * channels
    parts = [paper * GAP_PX]
    for image in line:
        parts += [bytes(pixel) * factor for pixel in _pixels(image, y, channels, height, width)]
        parts.append(paper * GAP_PX)
    drawn = b"".join(parts)
    return drawn + paper * (total - len(drawn) // channels)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
