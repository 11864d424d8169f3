"""DATM: difficulty-aligned trajectories (Guo et al., ICLR 2024, arXiv:2310.05773)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._trajectory import TrajectoryMatching
from ._trajectory_options import preset

__all__ = ["METHOD", "DifficultyAlignedTrajectories"]


@dataclass(frozen=True, kw_only=True)
class DifficultyAlignedTrajectories(TrajectoryMatching):
    """MTT whose start epochs suit the budget and grow with time, with soft labels learned from those of the experts.

    Differs from the authors' code in: an image that no expert classifies correctly gets a label all the same, where
    theirs divides by zero; the loss gate leaves every buffer as it was; otherwise as `mtt`.
    """

    steps: int = preset("steps", 10000)
    syn_steps: int = preset("syn_steps", 80)
    grows: ClassVar[bool] = True
    batch_syn: int | None = preset("batch_syn", 100)
    syn_lr: float = preset("syn_lr", 0.01)
    threshold: float | None = preset("threshold", 1.0)
    init: str = preset("init", "correct")
    soft_labels: bool = preset("soft_labels", True)


METHOD = DifficultyAlignedTrajectories
