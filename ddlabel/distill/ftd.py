"""FTD: flat trajectories (Du et al., CVPR 2023, arXiv:2211.11004)."""

from __future__ import annotations

from dataclasses import dataclass

from ._trajectory import TrajectoryMatching
from ._trajectory_options import preset

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class FlatTrajectories(TrajectoryMatching):
    """MTT on experts of flat minima (`train-teacher --optimizer gsam`); the result is an average of the images.

    Differs from the authors' code in: as `mtt`.
    """

    ema: float = preset("ema", 0.9995)


METHOD = FlatTrajectories
