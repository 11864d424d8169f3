"""LADD's dense labels: N x N fixed square windows of each image, labelled one by one (arXiv:2409.16239)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..options import opt
from ._kind import Kind
from ._share import parse_share

__all__ = ["KIND", "window_offsets", "window_side"]


@dataclass(frozen=True, kw_only=True)
class Dense(Kind):
    """N x N windows of R of the side, row by row from the top left, each resized to the image's size.

    Differs from the authors' code in: window and offsets follow one integer rule (rounded half up) at every size,
    where the paper only gives sizes that divide; resizing is bilinear in the stored input space, which the paper
    leaves open.
    """

    own_image: ClassVar[bool] = True

    grid: int = opt(5, "N: windows per side, N x N in all", min=1, max=64)
    ratio: str = opt("5/8", "R: side of a window as a fraction P/Q of the image")

    @property
    def view_count(self) -> int:
        """N x N."""
        return self.grid * self.grid

    def windows(self, size: int) -> tuple[int, list[int]]:
        """Side of a window and its N offsets along one axis, in pixels.

        Raises:
            UsageError: the ratio is no fraction in (0, 1], or the windows do not fit the image.
        """
        ratio = parse_share(self.ratio, "ratio", "5/8")
        side = window_side(size, ratio)
        if side < 1 or not 1 <= self.grid <= size:
            raise UsageError(
                f"{self.grid} windows of ratio {self.ratio} do not fit images of {size} px",
                field="grid",
                hint="use a smaller --grid or a larger --ratio",
            )
        return side, window_offsets(size, side, self.grid)

    def view(self, images: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """Windows, resized: one gather and one resize for the batch."""
        size = _side_of(images)
        side, offsets = self.windows(size)
        chosen = images[image.to(images.device)]
        starts = torch.tensor(offsets, device=images.device)
        view = view.to(images.device)
        span = torch.arange(side, device=images.device)
        rows = (starts[view // self.grid][:, None] + span)[:, None, :, None]
        columns = (starts[view % self.grid][:, None] + span)[:, None, None, :]
        channels = images.shape[1]
        tall = chosen.gather(2, rows.expand(-1, channels, side, size))
        crops = tall.gather(3, columns.expand(-1, channels, side, side))
        return functional.interpolate(crops, size=(size, size), mode="bilinear")

    def parameters(self, size: int) -> dict[str, Any]:
        """Grid, ratio, resize rule and image size."""
        self.windows(size)
        return {"grid": self.grid, "ratio": self.ratio, "resize": "bilinear", "size": size}


def window_side(size: int, ratio: Fraction) -> int:
    """round half up of ratio * size: 20 at 32 px and 5/8."""
    p, q = ratio.numerator, ratio.denominator
    return (2 * p * size + q) // (2 * q)


def window_offsets(size: int, side: int, grid: int) -> list[int]:
    """N offsets from 0 to size - side, rounded half up; the centre for N = 1."""
    if grid == 1:
        return [(size - side) // 2]
    room, steps = size - side, grid - 1
    return [(2 * k * room + steps) // (2 * steps) for k in range(grid)]


def _side_of(images: Tensor) -> int:
    height, width = images.shape[-2:]
    if height != width:
        raise UsageError(
            f"dense labels need square images, these have {height} x {width} px",
            field="kind",
            hint="use --kind soft",
        )
    return int(width)


KIND = Dense
