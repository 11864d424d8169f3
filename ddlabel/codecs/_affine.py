"""Uniform steps between a smallest and a largest value: what q8, q6, q4, q3 and q4-shared have in common.

The smallest value of a row always has code 0 and the largest the last code, so that encoding what was decoded gives
the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError
from ..options import opt
from ._bits import pack_rows, packed_width, unpack_rows
from ._blocks import Array, half, over_blocks
from ._codec import MAX_F16, Codec, Shape, check_encodable, check_parts
from .f16 import RELATIVE, SUBNORMAL

__all__ = ["Affine", "ClippedAffine", "affine_bound", "affine_codes", "affine_values", "check_scale"]


@dataclass(frozen=True, kw_only=True)
class Affine(Codec):
    """Codes of `bits` bits and, per view, the smallest value and the step as float16."""

    bits: ClassVar[int]
    per_image: ClassVar[bool] = False
    """Whether one scale serves all views of an image."""

    @property
    def floor(self) -> float | None:
        """How far below the largest value of a row others are kept apart; None for any."""
        return None

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `codes` (n, v, ceil(k bits / 8)) uint8 and `scale` (n, v, 2), or `image_scale` (n, 2), float16."""
        check_encodable(values, MAX_F16)
        images, views, classes = values.shape
        rows = self._rows(values)

        def work(block: Array) -> tuple[Array, Array]:
            codes, scale = affine_codes(block.astype(np.float64), 2**self.bits - 1, self.floor)
            packed = pack_rows(codes.reshape(-1, classes), self.bits)
            return packed.reshape(len(block), -1), scale

        codes, scale = over_blocks(work, rows, width=rows.shape[1])
        return {
            "codes": torch.from_numpy(codes).reshape(images, views, -1),
            self._scale: torch.from_numpy(scale).reshape(self._scale_shape(values.shape)),
        }

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """smallest + code * step."""
        images, views, classes = shape
        width = packed_width(classes, self.bits)
        check_parts(
            parts,
            {
                "codes": (torch.uint8, (images, views, width)),
                self._scale: (torch.float16, self._scale_shape(shape)),
            },
        )
        scale = parts[self._scale].reshape(-1, 2).numpy()
        check_scale(scale[:, 0], signed=True, name=self._scale)
        check_scale(scale[:, 1], signed=False, name=self._scale)

        def work(packed: Array, scale: Array) -> tuple[Array]:
            codes = unpack_rows(packed.reshape(-1, width), self.bits, classes)
            return (affine_values(codes.reshape(len(packed), -1), scale),)

        packed = parts["codes"].reshape(len(scale), -1).numpy()
        (values,) = over_blocks(work, packed, scale, width=8 * packed.shape[1] // self.bits)
        return torch.from_numpy(values).reshape(shape)

    def tolerance(self, values: Tensor) -> Tensor:
        """Half a step, what float16 and float32 round off, and what lies below the floor."""
        rows = self._rows(values)

        def work(block: Array) -> tuple[Array]:
            return (affine_bound(block.astype(np.float64), 2**self.bits - 1, self.floor),)

        (bound,) = over_blocks(work, rows, width=rows.shape[1])
        return torch.from_numpy(bound).reshape(len(values), -1).expand(values.shape[:2])

    @property
    def _scale(self) -> str:
        return "image_scale" if self.per_image else "scale"

    def _scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], 2) if self.per_image else (shape[0], shape[1], 2)

    def _rows(self, values: Tensor) -> Array:
        """One row for each scale."""
        rows = values.detach().flatten(1) if self.per_image else values.detach().flatten(0, 1)
        return np.asarray(rows.numpy())


@dataclass(frozen=True, kw_only=True)
class ClippedAffine(Affine):
    """With a floor, which spends the few codes on the classes that matter."""

    clip: float | None = opt(
        None, "raise values further than this below the largest one, such as 12; auto keeps them", above=0, max=60_000
    )

    @property
    def floor(self) -> float | None:
        """The option."""
        return self.clip


def affine_codes(values: Array, levels: int, floor: float | None = None) -> tuple[Array, Array]:
    """Codes (m, k) uint8 of 0 to `levels`, and scale (m, 2) float16: smallest value, step; of values (m, k) float64."""
    low, step = _low_and_step(values, levels, floor)
    scale = half(np.concatenate([low, step], axis=1))
    flat = scale[:, 1:] == 0
    steps = np.maximum(values, low)
    steps -= low
    steps /= np.where(flat, 1, step)
    np.rint(steps, out=steps)
    steps[flat[:, 0]] = 0
    return steps.astype(np.uint8), scale


def affine_values(codes: Array, scale: Array) -> Array:
    """smallest + code * step, float32."""
    wide = scale.astype(np.float64)
    return np.asarray((wide[:, :1] + codes * wide[:, 1:]).astype(np.float32))


def affine_bound(values: Array, levels: int, floor: float | None = None) -> Array:
    """(m,) bound of the error of values (m, k) float64.

    Half a step, plus what float16 rounds off the step (as often as there are levels) and the smallest value, and
    float32 off both; plus how far the floor lifts the smallest value. A step that float16 rounds to 0 loses the span
    of the row, at most `levels` times `SUBNORMAL`.
    """
    low, step = (column[:, 0] for column in _low_and_step(values, levels, floor))
    size = np.abs(low) + levels * step
    lifted = low - values.min(axis=1)
    return np.asarray(lifted + step / 2 + size * RELATIVE + (levels + 1) * SUBNORMAL + size * 2.0**-23)


def check_scale(scale: Array, *, signed: bool, name: str) -> None:
    """Refuse scales that are not finite, or negative steps.

    Raises:
        BundleError: naming the part.
    """
    if not np.isfinite(scale).all() or (not signed and bool((scale < 0).any())):
        raise BundleError(f"part '{name}': a scale is not finite or negative", field=name)


def _low_and_step(values: Array, levels: int, floor: float | None) -> tuple[Array, Array]:
    """Smallest value and step of each row before rounding, (m, 1) float64.

    Steps are no finer than a share of the smallest value: far below the rounding of that value to float16, far above
    what float32 can resolve beside it, so that decoded values, which are float32, still tell their step. Rows flatter
    than all such steps do not reach the last code.
    """
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    if floor is not None:
        # What was clipped and rounded spans at most as many steps of the next larger float16, and must not be clipped
        # again. Around large values, where steps are coarser than the floor, nothing is clipped.
        step = np.nextafter(half(np.array(floor / levels)), np.float16(np.inf)).astype(np.float64)
        fine = np.abs(half(low).astype(np.float64)) < floor * 2.0**9
        low = np.where(fine & (high - low > levels * step + np.abs(high) * 2.0**-23), high - floor, low)
    finest = half(np.abs(half(low).astype(np.float64)) * (2.0**-10 / (levels + 1))).astype(np.float64)
    return low, np.maximum((high - low) / levels, finest)
