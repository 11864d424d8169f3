"""GIFT: cosine loss with refined labels (Shang et al., 2024, arXiv:2405.14736)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..options import opt
from ..refinement import cosine_loss, refine_labels
from ._loss import Targets, direction_of

__all__ = ["LOSS"]


@dataclass(frozen=True, kw_only=True)
class Gift:
    """1 - cos(s, y), y the label mixed with the smoothed hard label; labels refined before are taken as they are.

    Differs from the authors' code in: the label is the stored one, where the code asks the teacher on the augmented
    image; labels that are not logits are refused unless allowed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hard", "soft"})
    gamma: float = opt(0.1, "share of the smoothed hard label; 0 is the cosine loss", min=0, max=1)
    alpha: float = opt(0.1, "label smoothing", min=0, below=1)
    form: str = opt("paper", "weights gamma and 1 - gamma, or gamma and 1 as the code does", choices=("paper", "code"))
    allow_prob: bool = opt(False, "take stored probabilities as the label")

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Scalar loss of logits (b, k)."""
        label = direction_of(targets, self.allow_prob)
        if targets.domain != "unit":
            label = refine_labels(label, targets.hard, alpha=self.alpha, gamma=self.gamma, form=self.form)
        return cosine_loss(logits, label)


LOSS = Gift
