"""Views as differences from the label of their image, in a few steps that all views of the image share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, UsageError
from ..options import opt
from ._affine import affine_codes, affine_values, check_scale
from ._bits import pack_rows, packed_width, unpack_rows
from ._blocks import Array, half, over_blocks
from ._codec import MAX_F16, Codec, Shape, check_encodable, check_parts, measured

__all__ = ["CODEC"]

COARSEST = 65_504.0
"""Largest step, the end of float16."""


@dataclass(frozen=True, kw_only=True)
class DeltaView(Codec):
    """Per image a label of 8 or 16 bits a class and a step; per view a whole number of steps: `bits` k bits a view.

    The label of an image is the median of its views, class by class, and the step is the largest difference (or the
    one at `coverage`) over the largest code. Rounding keeps the order of values, hence median and step, so that
    encoding what was decoded gives the same parts; a mean would not survive.
    """

    bits: int = opt(3, "bits of each difference", min=2, max=8)
    centre: str = opt("q8", "how the label of an image is stored: q8 or f16", choices=("q8", "f16"))
    coverage: float = opt(1.0, "share of an image's differences that the codes reach; others are cut", above=0, max=1)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `image_centre` (n, k) and, for q8, `image_range` (n, 2); `image_step` (n, 1); `codes` (n, v, bytes)."""
        check_encodable(values, 3 * MAX_F16)  # what is decoded may lie beyond what was encoded
        _images, views, classes = values.shape

        def work(block: Array) -> tuple[Array, ...]:
            exact = block.astype(np.float64)
            middle = (views - 1) // 2
            centre = np.partition(exact, middle, axis=1)[:, middle]
            if np.abs(centre).max(initial=0) > MAX_F16:
                raise UsageError(
                    f"codec 'delta-view' holds views whose median is within ±{MAX_F16:g}",
                    field="codec",
                    hint="check the teacher, or use --codec f32",
                )
            stored = affine_codes(centre, 255) if self.centre == "q8" else (half(centre), np.empty((len(block), 0)))
            delta = exact - centre[:, None]
            step = self._step(np.abs(delta).reshape(len(block), -1), self._centre(*stored))
            steps = half(step)
            flat = steps == 0
            codes = np.rint(delta / np.where(flat, 1, step)[..., None])
            codes[flat[:, 0]] = 0
            codes = (np.clip(codes, -self._top, self._top) + self._top).astype(np.uint8)
            packed = pack_rows(codes.reshape(-1, classes), self.bits).reshape(len(block), views, -1)
            return *stored, steps, packed

        arrays = over_blocks(work, values.detach().numpy(), width=views * classes)
        centre, extent, steps, packed = (torch.from_numpy(array) for array in arrays)
        parts = {"image_centre": centre, "image_step": steps, "codes": packed}
        return parts | ({"image_range": extent} if self.centre == "q8" else {})

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """label of the image + difference * step."""
        images, views, classes = shape
        width = packed_width(classes, self.bits)
        small = self.centre == "q8"
        check_parts(
            parts,
            {
                "image_centre": (torch.uint8 if small else torch.float16, (images, classes)),
                **({"image_range": (torch.float16, (images, 2))} if small else {}),
                "image_step": (torch.float16, (images, 1)),
                "codes": (torch.uint8, (images, views, width)),
            },
        )
        extent = parts["image_range"] if small else torch.zeros(images, 2, dtype=torch.float16)
        centre, spread, steps, codes = (
            part.numpy() for part in (parts["image_centre"], extent, parts["image_step"], parts["codes"])
        )
        check_scale(spread, signed=True, name="image_range")
        check_scale(spread[:, 1], signed=False, name="image_range")
        check_scale(steps, signed=False, name="image_step")
        if not small:
            check_scale(centre, signed=True, name="image_centre")

        def work(centre: Array, spread: Array, steps: Array, packed: Array) -> tuple[Array]:
            codes = unpack_rows(packed.reshape(-1, width), self.bits, classes).reshape(len(packed), views, classes)
            if (codes > 2 * self._top).any():
                raise BundleError(f"part 'codes' has a code above {2 * self._top}", field="codes")
            delta = (codes.astype(np.float64) - self._top) * steps.astype(np.float64)[..., None]
            return ((self._centre(centre, spread)[:, None] + delta).astype(np.float32),)

        (values,) = over_blocks(work, centre, spread, steps, codes, width=views * classes)
        return torch.from_numpy(values)

    def tolerance(self, values: Tensor) -> Tensor:
        """The error itself."""
        return measured(self, values)

    @property
    def _top(self) -> int:
        """The largest difference in steps; codes are differences plus this."""
        return int(2 ** (self.bits - 1) - 1)

    def _centre(self, stored: Array, spread: Array) -> Array:
        """(b, k) float64 label of each image as it is decoded."""
        decoded = affine_values(stored, spread) if self.centre == "q8" else stored
        return decoded.astype(np.float64)

    def _step(self, sizes: Array, centre: Array) -> Array:
        """(b, 1) step before rounding, from sizes of differences (b, v k); no finer than float32 tells from 0."""
        rank = max(0, math.ceil(self.coverage * sizes.shape[1]) - 1)
        largest = np.partition(sizes, rank, axis=1)[:, rank, None] / self._top
        finest = half(np.abs(centre).max(axis=1, keepdims=True) * (2.0**-10 / self._top)).astype(np.float64)
        return np.minimum(np.maximum(largest, finest), COARSEST)


CODEC = DeltaView
