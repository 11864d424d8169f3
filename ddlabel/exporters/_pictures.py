"""Images as 8-bit pictures: exactly where they are stored as such, else with a measure of what is lost."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distilled import StoredSet
from ..errors import UsageError
from ..interchange import EXACT8, VIEWABLE
from ._exporter import BATCH

__all__ = ["CONTRAST", "VIEWS", "Pictures", "draw", "png"]

VIEWS = ("clip", "contrast")
CONTRAST = 2.5
"""Standard deviations around the mean that `contrast` shows; MTT draws its images so (`distill.py`, `--save_it`)."""


@dataclass(frozen=True)
class Pictures:
    """What the pictures of a set are, and how far they are from it."""

    pixels: Tensor
    """(n, c, h, w) uint8."""
    view: str | None
    """`clip` or `contrast`; None for stored uint8 pixels, which are the pictures."""
    low: float = 0.0
    high: float = 1.0
    """Pixel 0 stands for `low` and 255 for `high`, in [0, 1] units."""
    clipped: float = 0.0
    """Share of the values that lie outside [low, high] by more than rounding moves values inside."""
    rmse: float = 0.0
    """Root mean square difference of pictures and images, in [0, 1] units, of which a step of 8 bits is 1/255."""
    rmse_training: float = 0.0
    """The same in model-input space, over the images' own root mean square there."""

    @property
    def form(self) -> str:
        """`exact8` or `viewable`."""
        return EXACT8 if self.view is None else VIEWABLE

    def record(self) -> dict[str, Any]:
        """For the sidecar."""
        exact = {"form": self.form, "count": len(self.pixels)}
        if self.view is None:
            return exact
        names = ("view", "low", "high", "clipped", "rmse", "rmse_training")
        return exact | {name: getattr(self, name) for name in names}


def draw(stored: StoredSet, view: str) -> Pictures:
    """The pictures of a set.

    Args:
        stored: uint8 pixels are taken as they are; float images go back to [0, 1] units, un-whitened where they are
            whitened.
        view: of float images. `clip`: values outside [0, 1] are cut, colours are true. `contrast`: mean +- 2.5
            standard deviations of the whole set, no wider than its values, become 0 to 255, by one scale for all, so
            that it can be undone.

    Raises:
        UsageError: no such view.
        BundleError: an image is not finite.
    """
    if view not in VIEWS:
        raise UsageError(f"view is '{view}', expected {' or '.join(VIEWS)}", field="view")
    if stored.pixels.dtype == torch.uint8:
        return Pictures(stored.pixels, None)
    low, high = _contrast(stored) if view == "contrast" else (0.0, 1.0)
    half = (high - low) / 510
    parts, clipped, error, training, power = [], 0, 0.0, 0.0, 0.0
    for rows in torch.arange(len(stored)).split(BATCH):
        images = stored.encode(rows)
        units = stored.space.decode(images)
        clipped += int(((units < low - half) | (units > high + half)).sum())
        pixels = ((units - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
        shown = pixels.double() / 255 * (high - low) + low
        error += float((shown - units).square().sum())
        training += float((stored.space.from_units(shown.float()) - images).double().square().sum())
        power += float(images.double().square().sum())
        parts.append(pixels)
    count = stored.pixels.numel()
    return Pictures(
        torch.cat(parts),
        view,
        low=low,
        high=high,
        clipped=clipped / count,
        rmse=math.sqrt(error / count),
        rmse_training=math.sqrt(training / power) if power else 0.0,
    )


def png(pixels: Tensor) -> bytes:
    """The PNG file of one picture, (c, h, w) uint8 of 1 or 3 channels."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(stream, "PNG", optimize=False)
    return stream.getvalue()


def _contrast(stored: StoredSet) -> tuple[float, float]:
    """Mean +- 2.5 standard deviations of the values in [0, 1] units, no wider than the values themselves."""
    total, squares, low, high, count = 0.0, 0.0, math.inf, -math.inf, stored.pixels.numel()
    for rows in torch.arange(len(stored)).split(BATCH):
        units = stored.space.decode(stored.encode(rows)).double()
        total += float(units.sum())
        squares += float(units.square().sum())
        low, high = min(low, float(units.min())), max(high, float(units.max()))
    mean = total / count
    spread = CONTRAST * math.sqrt(max(squares / count - mean**2, 0.0))
    low, high = max(low, mean - spread), min(high, mean + spread)
    return (low, high) if high > low else (mean - 0.5, mean + 0.5)
