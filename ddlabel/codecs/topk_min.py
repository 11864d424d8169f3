"""The k largest values, every other class getting the smallest of them ("MRS-k" of LPQLD): stays in the same domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ._affine import affine_codes
from ._blocks import Array
from ._codec import MAX_F16, check_encodable
from ._topk import TopK

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class TopKFilled(TopK):
    """Rank of the set of kept classes, `bits` bits for each, step and smallest: log2 binom(C, k) + k bits + 32 a view.

    Differs from the authors' code in: values are uniform steps and not float16; ties go to the lower class id.
    """

    columns: ClassVar[int] = 2

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """As `TopK`, of values within what float16 holds."""
        check_encodable(values, MAX_F16)
        return super().encode(values)

    def code(self, values: Array, mask: Array, kept: Array) -> tuple[Array, Array]:
        """Uniform steps between the smallest and the largest kept value."""
        del values, mask
        codes, scale = affine_codes(kept, self.levels)
        return codes, scale[:, ::-1].copy()

    def uncode(self, codes: Array, scale: Array) -> tuple[Array, Array]:
        """smallest + code * step, and the smallest."""
        return scale[:, 1:] + codes * scale[:, :1], scale[:, 1:].astype(np.float32)


CODEC = TopKFilled
