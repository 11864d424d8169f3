"""The folder of `evaluate --gradcam`: a sheet of overlays and the maps themselves, for every net."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ResourceError, UsageError
from ..manifest import printable

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ..bundle import Bundle
    from ..stages._gradcam import Overlays

__all__ = ["check_folder", "overlay_sheet", "remembering", "write_overlays"]

CELL_PX = 112
"""Least side of a picture on the sheet: images are enlarged by whole factors."""
PAIRS = 4
"""Pictures with their overlays in one row."""
GAP, CAPTION = 12, 20
"""Pixels between pairs, and for the words below each."""
MOST_LETTERS = 12
"""Of a class name."""
RAMP = ((0, 0, 0), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
"""Colours of map values from 0 to 1: dark to light, so that it reads without colour vision too."""
COVER = 0.75
"""Opacity of the largest map value; 0 leaves the grey image."""
INK, WRONG = "#222222", "#b00020"


def check_folder(path: str, *, force: bool, files: Sequence[str] = ()) -> None:
    """Refuse a folder for overlays that cannot work, before any computation.

    Args:
        path: of the folder, which is made where it is missing.
        force: write into one that holds something already.
        files: of the command line, none of which it may be.

    Raises:
        UsageError: it is a file, holds something (without `force`), or is to be made in a folder that does not exist.
        ResourceError: it or the folder around it is not writable.
    """
    folder = os.path.realpath(path)
    if not path or path == "-":
        raise UsageError(f"option 'gradcam' is '{path}', expected a folder", field="gradcam")
    if folder in {os.path.realpath(name) for name in files if name != "-"}:
        raise UsageError(f"option 'gradcam' is '{path}', which is an input or the output too", field="gradcam")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"option 'gradcam' is '{path}', a file, expected a folder", field="gradcam")
    if not os.path.isdir(folder):
        folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            hint = "create it first"
            raise UsageError(f"option 'gradcam': folder '{folder}' does not exist", field="gradcam", hint=hint)
    elif not force and os.access(folder, os.R_OK) and os.listdir(folder):
        hint = "add --force to write into it, or name another"
        raise UsageError(f"folder '{path}' of option 'gradcam' is not empty", field="gradcam", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError(f"option 'gradcam': folder '{folder}' is not writable", field="gradcam")


def remembering(stage: Callable[..., Bundle], kept: list[Overlays]) -> Callable[..., Bundle]:
    """The stage, with the maps it makes put into a list."""

    @functools.wraps(stage)
    def run(*arguments: Any, **named: Any) -> Bundle:
        return stage(*arguments, on_overlays=kept.append, **named)

    return run


def write_overlays(path: str, kept: Sequence[Overlays], *, force: bool) -> list[str]:
    """Write `NET.png` and `NET.npz` for every net into a folder; the names of the files.

    The archive has arrays and nothing that would have to be unpickled: `indices` (m,) into the test split, `labels`
    (m,), `predicted` (m,), `raw` (m, h', w') as the layer gives them, `maps` (m, h, w) stretched to [0, 1], `classes`.

    Raises:
        UsageError: a file exists and `force` is not set.
        ResourceError: the folder or a file cannot be written.
    """
    import numpy as np

    from ..fsio import atomic_output

    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"folder '{path}' cannot be made: {error.strerror}", field="gradcam") from error
    written = []
    for overlays in kept:
        archive, sheet = io.BytesIO(), io.BytesIO()
        arrays = {name: getattr(overlays, name).numpy() for name in ("indices", "labels", "predicted", "raw", "maps")}
        np.savez_compressed(archive, **arrays, classes=np.array(overlays.classes))
        overlay_sheet(overlays).save(sheet, "PNG", optimize=True)
        for ending, stream in (("png", sheet), ("npz", archive)):
            written.append(os.path.join(path, f"{overlays.arch}.{ending}"))
            with atomic_output(written[-1], force=force) as output:
                output.write(stream.getvalue())
    return written


def overlay_sheet(overlays: Overlays) -> Image:
    """Pictures beside their overlays, `PAIRS` to a row, with true and predicted class below; wrong ones in red."""
    from PIL import Image, ImageDraw, ImageFont

    count, _channels, height, width = overlays.pixels.shape
    factor = max(1, -(-CELL_PX // max(height, width)))
    cell = (factor * width, factor * height)
    columns, rows = min(PAIRS, count), -(-count // PAIRS)
    step = (2 * cell[0] + GAP + 2, cell[1] + CAPTION + GAP)
    sheet = Image.new("RGB", (GAP + columns * step[0], 2 * GAP + CAPTION + rows * step[1]), "#ffffff")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((GAP, GAP + 8), printable(f"{overlays.arch}: Grad-CAM of the true class"), fill=INK, font=font)
    for index in range(count):
        left = GAP + index % PAIRS * step[0]
        top = GAP + CAPTION + GAP + index // PAIRS * step[1]
        picture = _picture(overlays.pixels[index].numpy())
        for place, array in enumerate((picture, _blend(picture, overlays.maps[index].numpy()))):
            image = Image.fromarray(array).resize(cell, Image.Resampling.NEAREST)
            sheet.paste(image, (left + place * (cell[0] + 2), top))
        label, guess = int(overlays.labels[index]), int(overlays.predicted[index])
        said = f"{_short(overlays.classes[label])}"
        words = f"true: {said}" if label == guess else f"true: {said}, said: {_short(overlays.classes[guess])}"
        draw.text((left, top + cell[1] + 3), printable(words), fill=INK if label == guess else WRONG, font=font)
    return sheet


def _picture(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of pixels (c, h, w): colour as it is, anything else as the grey of its first channel."""
    colour = pixels if len(pixels) == 3 else pixels[:1].repeat(3, axis=0)
    moved: np.ndarray = colour.transpose(1, 2, 0).copy()
    return moved


def _blend(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The grey of a picture (h, w, 3) under the colours of map values (h, w) in [0, 1], the stronger the denser."""
    import numpy as np

    grey = picture.astype(np.float64).mean(axis=2, keepdims=True)
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(values, stops, [colour[channel] for colour in RAMP]) for channel in range(3)], axis=2)
    cover = COVER * values[:, :, None]
    mixed: np.ndarray = ((1 - cover) * grey + cover * colours).round().astype(np.uint8)
    return mixed


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 2] + ".."
