"""The k largest values, the others sharing what probability they had evenly: marginal smoothing of FKD.

Source: arXiv:2112.01528, where five classes are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ._blocks import Array, half, row_sum
from ._topk import LOWEST, RelativeTopK, steps_below

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class TopKSmoothed(RelativeTopK):
    """Rank of the set of kept classes, `bits` bits for each, step and rest: log2 binom(C, k) + k bits + 32 bits a view.

    The remaining mass is that at temperature 1.

    Differs from the authors' code in: log-probabilities are kept, relative to the largest one, and not probabilities,
    so that temperatures still act on them; ties go to the lower class id.
    """

    columns: ClassVar[int] = 2

    def code(self, values: Array, mask: Array, kept: Array) -> tuple[Array, Array]:
        """Steps below the largest value; and the mean of the others' probabilities over the largest, as logarithm."""
        codes, step = steps_below(kept, self.levels)
        others = values[~mask].reshape(len(values), -1).astype(np.float64)
        top = others.max(axis=1, keepdims=True)
        mean = row_sum(np.exp(np.maximum(others - top, -1000)))[:, None] / others.shape[1]
        rest = half(np.maximum(top - kept.max(axis=1, keepdims=True) + np.log(mean), LOWEST))
        # Below the smallest kept value, so that the same classes are the largest ones after decoding.
        smallest = -(codes.max(axis=1, keepdims=True) * step.astype(np.float64))
        below = half(smallest)
        below = np.where(below < smallest, below, np.nextafter(below, np.float16(-np.inf)))
        return codes, np.concatenate([step, np.minimum(rest, below)], axis=1)

    def uncode(self, codes: Array, scale: Array) -> tuple[Array, Array]:
        """Values up to 0, and the rest."""
        return -(codes * scale[:, :1]) + 0.0, scale[:, 1:].astype(np.float32)


CODEC = TopKSmoothed
