"""The k largest values, renormalised: the softmax is over them alone, other classes get nothing (FKD, LPQLD).

Sources: marginal re-norm of FKD (arXiv:2112.01528), "MR-k" of LPQLD. LPQLD spends 4 k bytes and more on a view, ids
and values of 16 bits each; here 50 of 1000 classes with 3 bits take 60 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ._blocks import Array
from ._topk import LOWEST, RelativeTopK, steps_below

__all__ = ["CODEC"]


@dataclass(frozen=True, kw_only=True)
class TopKRenormalised(RelativeTopK):
    """Rank of the set of kept classes, `bits` bits for each, one step: log2 binom(C, k) + k bits + 16 bits a view.

    Differs from the authors' code in: values are steps below the largest one and not float16, so that temperatures
    still act on them; ties go to the lower class id.
    """

    columns: ClassVar[int] = 1

    def code(self, values: Array, mask: Array, kept: Array) -> tuple[Array, Array]:
        """Steps below the largest value."""
        del values, mask
        return steps_below(kept, self.levels)

    def uncode(self, codes: Array, scale: Array) -> tuple[Array, Array]:
        """Values up to 0; nothing elsewhere."""
        return -(codes * scale) + 0.0, np.full((len(codes), 1), LOWEST, np.float32)


CODEC = TopKRenormalised
