"""Square roots of probabilities in uniform steps, in which a step costs the same divergence for every class.

KL(p || q) is about 2 |sqrt p - sqrt q|^2 for close distributions (twice the squared Hellinger distance), so steps that
are even in sqrt p are coarse for improbable classes and fine for probable ones, as uniform steps of logits are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError
from ..options import opt
from ._blocks import Array, over_blocks, row_sum
from ._codec import Codec, Shape, check_encodable, check_parts, measured, only_softmax

__all__ = ["CODEC"]

ZERO = 0.25
"""What code 0 stands for, in steps."""
EXACT = 5e-4
"""How far from whole numbers of steps float32 log-probabilities that were decoded may be; half of what tells two
different fractions of at most 255 steps apart."""


@dataclass(frozen=True, kw_only=True)
class RootSteps(Codec):
    """8 bits a class and 8 a view before zstd, which packs the many zeros to about a fifth.

    The largest probability of a view is a whole number of steps, its code; the others are rounded relative to it.
    Codes of one class in all views of an image stand side by side, which zstd likes.
    """

    step: float = opt(0.03, "step of the square root of a probability", min=0.004, max=0.5)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `top` (n, v, 1) and `image_codes` (n, k, v) uint8."""
        check_encodable(values)
        _images, views, classes = values.shape

        def work(block: Array) -> tuple[Array, Array]:
            rows = block.reshape(-1, classes).astype(np.float64)
            roots = np.exp((rows - rows.max(axis=1, keepdims=True)) / 2)  # relative to the largest
            top = np.maximum(1, np.rint(1 / (np.sqrt(row_sum(roots * roots)) * self.step)))[:, None]
            for steps in range(self._most, 0, -1):  # what was decoded: the fewest steps that all are whole numbers of
                scaled = roots * steps
                off = np.minimum(np.abs(scaled - np.maximum(1, np.rint(scaled))), np.abs(scaled - ZERO))
                top[off.max(axis=1) < EXACT] = steps
            codes = np.rint(roots * top).astype(np.uint8)
            return top.reshape(-1, views, 1).astype(np.uint8), codes.reshape(-1, views, classes).transpose(0, 2, 1)

        top, codes = over_blocks(work, values.detach().numpy(), width=views * classes)
        return {"top": torch.from_numpy(top), "image_codes": torch.from_numpy(np.ascontiguousarray(codes))}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """Log-probabilities relative to the largest."""
        images, views, classes = shape
        check_parts(
            parts,
            {"top": (torch.uint8, (images, views, 1)), "image_codes": (torch.uint8, (images, classes, views))},
        )

        def work(top: Array, codes: Array) -> tuple[Array]:
            by_view = codes.transpose(0, 2, 1)
            if (by_view.max(axis=2, keepdims=True) != top).any():
                raise BundleError("part 'top' does not hold the largest code of each view", field="top")
            if (top == 0).any() or (top > self._most).any():
                raise BundleError(f"part 'top' is not from 1 to {self._most}", field="top")
            roots = np.where(by_view == 0, ZERO, by_view) / top.astype(np.float64)
            return ((2 * np.log(roots)).astype(np.float32),)

        top, codes = parts["top"].numpy(), parts["image_codes"].numpy()
        (values,) = over_blocks(work, top, codes, width=views * classes)
        return torch.from_numpy(values)

    def tolerance(self, values: Tensor) -> Tensor:
        """The error itself."""
        return measured(self, values)

    def domain(self, domain: str) -> str:
        """`logprob`: without their offset, values only make sense through a softmax."""
        return only_softmax("root", domain)

    @property
    def _most(self) -> int:
        """Steps of a probability of 1."""
        return min(255, int(1 / self.step + 0.5))


CODEC = RootSteps
