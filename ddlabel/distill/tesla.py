"""TESLA: trajectory matching with a truncated gradient (Cui et al., ICML 2023, arXiv:2211.10586)."""

from __future__ import annotations

from dataclasses import dataclass

from ._trajectory import TrajectoryMatching
from ._trajectory_options import preset

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class TruncatedTrajectories(TrajectoryMatching):
    """MTT whose gradient takes the student's parameters as constants: biased, for the curvature terms it saves.

    The terms through which an image of an early step acts on later steps are dropped; the error grows with the
    student's step size, the number of steps and the curvature of its loss (LADD, arXiv:2409.16239, appendices C and E).

    Differs from the authors' code in: their gradient of images is half of their formula, which `tesla_scale=0.5`
    reproduces; `teacher_label` works on every data set; otherwise as `mtt`.
    """

    steps: int = preset("steps", 10000)
    unroll: str = preset("unroll", "tesla")


METHOD = TruncatedTrajectories
