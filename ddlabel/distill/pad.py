"""PAD: prioritised alignment (Li et al., 2024, arXiv:2408.03360)."""

from __future__ import annotations

from dataclasses import dataclass

from ._trajectory import TrajectoryMatching, preset

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class PrioritizedAlignment(TrajectoryMatching):
    """DATM that matches deep parameters alone (FIEM), on experts with a curriculum (`train-teacher --curriculum pad`).

    The first floor(mask_shallow P) parameters in the order of the net are left out of the loss; the student still
    trains all of them.

    Differs from the authors' code in: masks by depth as in the paper, where the published script masks by loss
    (`mask=loss`); errors are squared as in the code, the paper's Eq. 2 prints norms; otherwise as `datm`.
    """

    steps: int = preset("steps", 10000)
    syn_steps: int = preset("syn_steps", 80)
    current_max_start_epoch: int | None = preset("current_max_start_epoch", 10)
    interval: int | None = preset("interval", 100)
    batch_syn: int | None = preset("batch_syn", 100)
    syn_lr: float = preset("syn_lr", 0.01)
    threshold: float | None = preset("threshold", 1.0)
    init: str = preset("init", "correct")
    soft_labels: bool = preset("soft_labels", True)
    mask_shallow: float = preset("mask_shallow", 0.25)


METHOD = PrioritizedAlignment
