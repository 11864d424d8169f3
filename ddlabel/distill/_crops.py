"""Random square crops of images, and many of them resized at once with antialiasing."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

__all__ = ["cut", "random_squares", "resize_weights"]

CUT_BYTES = 4 * 2**20
"""Size of what one batch of matrix products makes in between: it stays in the cache of a CPU."""


def random_squares(count: int, side: int, least: float, generator: Generator) -> Tensor:
    """Square crops of square images, as torchvision's `RandomResizedCrop` with ratio 1 draws them.

    The area is uniform from `least` to 1 of the image's, its root is rounded to whole pixels, and the place is uniform
    among those inside the image.

    Args:
        count: how many.
        side: of the images in pixels.
        least: share of the area in (0, 1].
        generator: on the CPU; three numbers per crop.

    Returns:
        (count, 3) int64 top, left and side of each crop in pixels.
    """
    area, down, right = torch.rand((count, 3), generator=generator, dtype=torch.float64).unbind(dim=1)
    sides = ((least + (1 - least) * area).sqrt() * side).round().long().clamp(1, side)
    places = side - sides + 1
    tops, lefts = ((share * places).long().minimum(places - 1) for share in (down, right))
    return torch.stack([tops, lefts, sides], dim=1)


def resize_weights(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """What every output takes from every pixel along one axis: bilinear with antialiasing, rows that sum to 1.

    A triangle around (j + 1/2) length / out inside the crop, as wide as an output pixel but at least as an input pixel:
    `functional.interpolate(crop, mode="bilinear", antialias=True)` as matrix rows. Pixels outside the crop get 0.

    Args:
        start: (b,) int64 first pixel of each crop.
        length: (b,) int64 pixels of each crop.
        size: pixels of the axis.
        out: pixels of the result.

    Returns:
        (b, out, size) float64.
    """
    scale = length.double()[:, None, None] / out
    centre = start.double()[:, None, None] + scale * (torch.arange(out, dtype=torch.float64)[None, :, None] + 0.5)
    pixel = torch.arange(size)[None, None, :]
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = (1 - ((pixel + 0.5 - centre) / scale.clamp(min=1)).abs()).clamp_(min=0).mul_(inside)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def cut(images: Tensor, crops: Tensor, out: int) -> Tensor:
    """Crops of each image, resized to out x out pixels.

    Each is `functional.interpolate(crop, (out, out), mode="bilinear", antialias=True)` of its crop alone, up to
    rounding: pixels outside have no part in it. Rows first, of all crops of an image together, then columns.

    Args:
        images: (n, c, s, s) floating point.
        crops: (n, m, 3) int64 top, left and side in pixels, inside the image.
        out: side of the results in pixels.

    Returns:
        (n, m, c, out, out) in the images' type, on their device.
    """
    channels, size = images.shape[1], images.shape[-1]
    each = channels * crops.shape[1] * out * size * images.element_size()
    together = max(1, CUT_BYTES // each) if images.device.type == "cpu" else len(images)
    parts = zip(images.split(together), crops.cpu().split(together), strict=True)
    return torch.cat([_cut(part, wanted, out) for part, wanted in parts])


def _cut(images: Tensor, crops: Tensor, out: int) -> Tensor:
    (count, channels, size), per = images.shape[:3], crops.shape[1]
    tops, lefts, sides = crops.reshape(-1, 3).unbind(dim=1)
    rows, columns = (
        resize_weights(start, sides, size, out).to(dtype=images.dtype).to(images.device) for start in (tops, lefts)
    )
    wide = images.movedim(1, 2).reshape(count, size, channels * size)
    lines = (rows.view(count, per * out, size) @ wide).view(count * per, out * channels, size)
    made = lines @ columns.mT
    return made.view(count, per, out, channels, out).movedim(2, 3)
