"""PAD: prioritised alignment (Li et al., 2024, arXiv:2408.03360)."""

from __future__ import annotations

from dataclasses import dataclass

from ._trajectory_options import preset
from .datm import DifficultyAlignedTrajectories

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class PrioritizedAlignment(DifficultyAlignedTrajectories):
    """DATM that matches deep parameters alone (FIEM), on experts with a curriculum (`train-teacher --curriculum pad`).

    The first floor(mask_shallow P) parameters in the order of the net are left out of the loss; the student still
    trains all of them.

    Differs from the authors' code in: masks by depth as in the paper, where the published script masks by loss
    (`mask=loss`); errors are squared as in the code, the paper's Eq. 2 prints norms; otherwise as `datm`.
    """

    mask_shallow: float = preset("mask_shallow", 0.25)


METHOD = PrioritizedAlignment
