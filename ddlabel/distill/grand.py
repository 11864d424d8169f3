"""Real images by the length of their gradient, GraNd (Paul et al., NeurIPS 2021, arXiv:2107.07075)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._selection import ScoreSelection

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class GradientNorms(ScoreSelection):
    """By the norm of the cross-entropy's gradient in the last layer, ||p - onehot(y)|| sqrt(1 + ||h||^2).

    Differs from the authors' code in: theirs takes the gradient of all parameters at initialisation; this is
    DeepCore's, of the last layer. Ten nets where 'train-teacher --scores grand' recorded them, else the teacher's.
    """

    score: ClassVar[str] = "grand"


METHOD = GradientNorms
