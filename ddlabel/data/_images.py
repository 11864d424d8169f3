"""From image files to uint8 arrays: one set of rules for every picture.

Palette and CMYK pictures become RGB, transparency is laid on white, EXIF orientation is ignored, and a set becomes
one-channel only when every picture is grey. Pictures with 16 bits a channel, animations and pictures of more than
89,478,485 pixels are refused.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["EXTENSIONS", "Picture", "decode"]

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 89_478_485
"""Pillow's own limit, where it only warns."""
GREY_MODES = frozenset({"1", "L", "LA"})
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_DEEP_TILES = re.compile(";16[BLN]")
"""How Pillow writes down that it cuts 16 bits a channel of colours to 8."""
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises of pictures that are damaged."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture and where it came from."""

    name: str
    """Path, for messages."""
    data: bytes


def decode(picture: Picture, size: int | None) -> np.ndarray[Any, Any]:
    """(1, h, w) or (3, h, w) uint8.

    Args:
        picture: as it is in its file.
        size: side to resize to: the short side by antialiased bilinear interpolation, then a centre crop.

    Raises:
        DataError: it cannot be read, naming it.
    """
    array = _decode(picture, size)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _decode(picture: Picture, size: int | None) -> np.ndarray[Any, Any]:
    """(h, w) or (h, w, 3) uint8."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of damaged notes beside the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(picture.data)) as image:
                _check(image, picture.name)
                plain = _plain(image)
                return np.asarray(plain if size is None else _resize(plain, size), dtype=np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{picture.name}: more than {MAX_PIXELS} pixels, expected a normal picture") from error
    except _DAMAGE as error:
        raise DataError(
            f"{picture.name}: not a readable picture ({len(picture.data)} bytes)", hint="repair or remove the file"
        ) from error


def _check(image: Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width} x {image.height} pixels, expected at most {MAX_PIXELS}")
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{name}: an animation of {image.n_frames} frames, expected one picture")  # type: ignore[attr-defined]
    if image.mode in DEEP_MODES or _DEEP_TILES.search(repr(getattr(image, "tile", ()))):
        raise DataError(
            f"{name}: mode {image.mode} of 16 bits or more, expected 8 bits a channel", hint="convert it to 8 bits"
        )


def _plain(image: Image) -> Image:
    """Grey (L) or RGB, without transparency."""
    from PIL import Image as PilImage

    transparent = image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info
    if transparent:
        layered = image.convert("RGBA")
        white = PilImage.new("RGBA", layered.size, (255, 255, 255, 255))
        flat = PilImage.alpha_composite(white, layered).convert("RGB")
        return flat.convert("L") if image.mode == "LA" else flat
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def _resize(image: Image, size: int) -> Image:
    from PIL import Image as PilImage

    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), PilImage.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
