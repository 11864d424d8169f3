"""Crops resized to the size of their image, for a whole batch of different crops at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["resized_crops"]

CACHED = 2**18
"""Values made at once on a CPU: few enough to stay in its cache, twice as fast as a whole batch."""


def resized_crops(images: Tensor, image: Tensor, crop: Tensor, flip: Tensor) -> Tensor:
    """Crop, resize to the size of the image, mirror; differentiable in the images.

    Each view is `functional.interpolate(crop, mode="bilinear", align_corners=False)` of its crop alone: pixels outside
    the crop have no part in it. Weights come from whole numbers, and each view is computed on its own, so its bits do
    not depend on the batch.

    Args:
        images: (n, c, h, w).
        image: (b,) int64, which image each view is of.
        crop: (b, 4) int64 top, left, height and width in pixels, inside the image.
        flip: (b,) bool, whether the result is mirrored.

    Returns:
        (b, c, h, w) on the device of the images.
    """
    together = max(1, CACHED // images[0].numel()) if images.device.type == "cpu" else max(1, len(image))
    parts = (part.split(together) for part in (image, crop, flip))
    return torch.cat([_resized(images, *part) for part in zip(*parts, strict=True)])


def _resized(images: Tensor, image: Tensor, crop: Tensor, flip: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    top, left, tall, wide = crop.unbind(dim=1)
    rows = _taps(top, tall, height, torch.zeros_like(flip))
    columns = _taps(left, wide, width, flip)
    low, high, weight = (tap.to(images.device) for tap in rows)
    planes = images.movedim(1, 2)  # (n, h, c, w): one index takes a row of all channels
    at = image.to(images.device)[:, None]
    lines = _between(planes[at, low], planes[at, high], weight[:, :, None, None]).movedim(1, 2)
    low, high, weight = (tap.to(images.device)[:, None, None, :] for tap in columns)
    near, far = (lines.gather(3, tap.expand(lines.shape)) for tap in (low, high))
    return _between(near, far, weight)


def _between(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """low + weight (high - low), in three roundings everywhere, where `torch.lerp` may take two."""
    return low + (high - low) * weight.to(low.dtype)


def _taps(start: Tensor, length: Tensor, size: int, reverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two source positions of every output position along one axis, and the weight of the second: (b, size) each.

    Output j lies at (j + 1/2) length / size - 1/2 inside the crop, cut to its first and last pixel; in units of
    1 / (2 size) that is a whole number.
    """
    output = torch.arange(size)[None, :]
    output = torch.where(reverse[:, None], size - 1 - output, output)
    last = length[:, None] - 1
    place = ((2 * output + 1) * length[:, None] - size).clamp(min=0)
    place = torch.minimum(place, 2 * size * last)
    low = place // (2 * size)
    high = torch.minimum(low + 1, last)
    weight = (place % (2 * size)).double() / (2 * size)
    return start[:, None] + low, start[:, None] + high, weight
