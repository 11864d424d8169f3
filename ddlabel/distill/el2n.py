"""Real images by the length of the error vector, EL2N (Paul et al., NeurIPS 2021, arXiv:2107.07075)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._selection import ScoreSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class Errors(ScoreSelection):
    """By ||p - onehot(y)||, the score of PAD. At ten images per class of CIFAR-10 `pick=easy` is a strong baseline.

    Differs from the authors' code in: theirs averages over ten nets after a few epochs; so do scores recorded by
    'train-teacher --scores el2n', while without them the teacher's net of its last epoch alone is asked.
    """

    score: ClassVar[str] = "el2n"


METHOD = Errors
