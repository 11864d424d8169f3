"""Augmentations as replayable records: draw parameters from a generator, then apply them as a pure function.

The operations are those of DSA (Zhao & Bilen, ICML 2021, arXiv:2102.08259), with its published strengths, and resized
crops. They act on images in model-input space and are differentiable in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .. import _plugins
from ..crops import resized_crops
from ..errors import UsageError
from ._shuffle import draw_orders, shuffled

__all__ = ["FAMILIES", "Augmentation", "Step", "apply", "build", "draw_crops", "draw_step", "flips"]

PROB_FLIP = 0.5
RATIO_SCALE = 1.2
RATIO_ROTATE = 15.0
"""Degrees."""
RATIO_CROP_PAD = 0.125
RATIO_CUTOUT = 0.5
BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP_AREA = {"resized-crop": 0.5, "imagenet-crop": 0.08}
"""Least area of a resized crop: RDED's 1/F for F = 2, and the usual one on ImageNet."""
FACTORED = ("resized-crop", "shuffle-patches")
"""Augmentations of RDED's mosaics, which depend on their factor F; without a number F = 2."""
MAX_FACTOR = 64
CROP_RATIO = 4 / 3
"""Most elongated resized crop, either way."""
CROP_ATTEMPTS = 10
"""Crops tried before the whole image is taken, as in torchvision."""


@dataclass(frozen=True)
class Step:
    """One operation with its drawn parameters."""

    family: str
    values: Mapping[str, Tensor]
    """Per sample, (n,), (n, 4) or (n, F), or of length 1 when all samples share them."""
    align_corners: bool = True
    """Convention of the sampling grids of `scale` and `rotate`."""


class Augmentation(Protocol):
    """What a plugin of this room offers."""

    def draw(self, n: int, height: int, width: int, generator: Generator, *, siamese: bool = False) -> tuple[Step, ...]:
        """Parameters for n images of height x width pixels; `siamese` draws one set that all images share."""
        ...


def build(name: str, *, flip: bool = True) -> Augmentation:
    """An augmentation by name; `flip=False` leaves mirroring out (digits).

    A number at the end is RDED's F, for those that know it: `shuffle-patches-3`, `resized-crop-3`.

    Raises:
        UsageError: unknown name; F beyond 2 to 64.
    """
    head, _, last = name.rpartition("-")
    factor: dict[str, int] = {}
    if head in FACTORED and last.isdecimal():
        name, factor = head, {"factor": int(last)}
        if not 2 <= factor["factor"] <= MAX_FACTOR:
            raise UsageError(f"augmentation '{head}-{last[:8]}': factor expected in 2 to {MAX_FACTOR}", field="augment")
    augmentation: Augmentation = _plugins.load("augment", name, "AUGMENT")(flip=flip, **factor)
    return augmentation


def apply(images: Tensor, steps: tuple[Step, ...]) -> Tensor:
    """Apply drawn parameters to images (n, c, h, w); differentiable, no randomness, the input is not changed."""
    for step in steps:
        images = OPERATIONS[step.family](images, step)
    return images


def flips(steps: tuple[Step, ...], n: int) -> Tensor | None:
    """Which of n samples the steps mirror left and right, (n,) bool; None where they mirror none at all.

    Mirrored twice is not mirrored. A flip that all samples share is every sample's.
    """
    flipped: Tensor | None = None
    for step in steps:
        if step.family == "flip":
            own = step.values["flip"].expand(n)
            flipped = own if flipped is None else flipped ^ own
    return flipped


def draw_step(
    family: str, n: int, height: int, width: int, generator: Generator, *, align_corners: bool = True
) -> Step:
    """Parameters of one operation for n samples, on the CPU."""

    def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    def integer(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (n,), generator=generator)

    if family == "color":
        values = {name: uniform() for name in ("brightness", "saturation", "contrast")}
    elif family == "crop":
        values = {"down": integer(*_shift(height)), "right": integer(*_shift(width))}
    elif family == "cutout":
        rows, columns = _cut(height), _cut(width)
        values = {"row": integer(0, height - rows % 2), "column": integer(0, width - columns % 2)}
    elif family == "flip":
        values = {"flip": uniform() < PROB_FLIP}
    elif family in CROP_AREA:
        values = {"crop": draw_crops(n, height, width, CROP_AREA[family], generator)}
    elif family == "shuffle":
        values = dict(draw_orders(n, 2, generator))
    elif family == "scale":
        values = {name: uniform(1 / RATIO_SCALE, RATIO_SCALE) for name in ("x", "y")}
    else:
        values = {"angle": uniform(-RATIO_ROTATE, RATIO_ROTATE)}
    return Step(family, values, align_corners)


def draw_crops(n: int, height: int, width: int, least: float, generator: Generator) -> Tensor:
    """(n, 4) int64 top, left, height, width of RandomResizedCrop: the first of ten tries that fits, or the whole image.

    Args:
        n: how many.
        height, width: of the image, or of the part of it from the top left corner that crops lie in.
        least: area as a share of that, in (0, 1]; the largest is 1.
        generator: of the draws.
    """
    area, shape, row, column = torch.rand(4, n, CROP_ATTEMPTS, generator=generator, dtype=torch.float64)
    area = height * width * (least + (1 - least) * area)
    ratio = CROP_RATIO ** (2 * shape - 1)
    tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    top, left = ((row * (height - tall + 1)).long(), (column * (width - wide + 1)).long())
    tries = torch.stack([top, left, tall, wide], dim=2)
    first = tries[torch.arange(n), fits.int().argmax(dim=1)]
    return torch.where(fits.any(dim=1, keepdim=True), first, torch.tensor([0, 0, height, width]))


def _shift(side: int) -> tuple[int, int]:
    """Largest translation in pixels, both ways: 4 at 32."""
    reach = math.floor(side * RATIO_CROP_PAD + 0.5)
    return -reach, reach


def _cut(side: int) -> int:
    """Side of the cutout box in pixels: 16 at 32."""
    return math.floor(side * RATIO_CUTOUT + 0.5)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Per-sample values as (n, 1, 1, 1) on the images' device and in their type."""
    kind = like.dtype if values.is_floating_point() else values.dtype
    return values.to(device=like.device, dtype=kind).reshape(-1, 1, 1, 1)


def _color(x: Tensor, step: Step) -> Tensor:
    """Brightness, then saturation about the channel mean of each pixel, then contrast about the image mean."""
    x = x + (_column(step.values["brightness"], x) - 0.5) * BRIGHTNESS
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (_column(step.values["saturation"], x) * SATURATION) + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (_column(step.values["contrast"], x) + CONTRAST) + mean


def _crop(x: Tensor, step: Step) -> Tensor:
    """Translate by whole pixels, zeros from outside."""
    down, right = step.values["down"].to(x.device), step.values["right"].to(x.device)
    return _shift_axis(_shift_axis(x, down, 2), right, 3)


def _shift_axis(x: Tensor, offset: Tensor, axis: int) -> Tensor:
    """Position p of the result is position p + offset of the input, per sample."""
    side = x.shape[axis]
    source = torch.arange(side, device=x.device) + offset.reshape(-1, 1)
    inside = (source >= 0) & (source < side)
    shape = [-1, 1, 1, 1]
    shape[axis] = side
    index = source.clamp(0, side - 1).reshape(shape).expand_as(x)
    return x.gather(axis, index) * inside.reshape(shape).to(x.dtype)


def _cutout(x: Tensor, step: Step) -> Tensor:
    """Zero a box around a centre, cut at the border."""
    rows = _outside(step.values["row"].to(x.device), _cut(x.shape[2]), x.shape[2])
    columns = _outside(step.values["column"].to(x.device), _cut(x.shape[3]), x.shape[3])
    keep = rows[:, None, :, None] | columns[:, None, None, :]
    return x * keep.to(x.dtype)


def _outside(centre: Tensor, cut: int, side: int) -> Tensor:
    """(n, side): positions the box does not cover."""
    position = torch.arange(side, device=centre.device)
    start = centre.reshape(-1, 1) - cut // 2
    return (position < start) | (position >= start + cut)


def _flip(x: Tensor, step: Step) -> Tensor:
    """Mirror left and right."""
    return torch.where(_column(step.values["flip"], x), x.flip(3), x)


def _resized_crop(x: Tensor, step: Step) -> Tensor:
    """Crop and resize back, bilinear."""
    crop = step.values["crop"].expand(len(x), 4)
    return resized_crops(x, torch.arange(len(x)), crop, torch.zeros(len(x), dtype=torch.bool))


def _shuffle(x: Tensor, step: Step) -> Tensor:
    """Strips in another order."""
    return shuffled(x, step.values["columns"], step.values["rows"])


def _scale(x: Tensor, step: Step) -> Tensor:
    """Scale the sampling grid: factors above 1 shrink the content."""
    zero = torch.zeros_like(step.values["x"])
    theta = [[step.values["x"], zero, zero], [zero, step.values["y"], zero]]
    return _sample(x, theta, step.align_corners)


def _rotate(x: Tensor, step: Step) -> Tensor:
    """Rotate about the centre."""
    angle = step.values["angle"] * (math.pi / 180)
    zero = torch.zeros_like(angle)
    theta = [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero]]
    return _sample(x, theta, step.align_corners)


def _sample(x: Tensor, rows: list[list[Tensor]], align_corners: bool) -> Tensor:
    theta = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2).to(device=x.device, dtype=x.dtype)
    grid = functional.affine_grid(theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=align_corners)
    return functional.grid_sample(x, grid, align_corners=align_corners)


FAMILIES: Mapping[str, Callable[[Tensor, Step], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
"""The six operation families of DSA."""
OPERATIONS = {**FAMILIES, **dict.fromkeys(CROP_AREA, _resized_crop), "shuffle": _shuffle}
"""All operations."""
