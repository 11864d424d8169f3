"""MTT: matching training trajectories (Cazenavette et al., CVPR 2022, arXiv:2203.11932)."""

from __future__ import annotations

from dataclasses import dataclass

from ._trajectory import TrajectoryMatching

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class MatchingTrajectories(TrajectoryMatching):
    """Distilled images on which a student takes the way that experts took on real data.

    Differs from the authors' code in: the gradient through the student is computed by an exact adjoint in constant
    memory, theirs keeps every step's graph; the last images are the result, not those that scored best on test data;
    explicit seeds; `steps` outer steps where theirs has one more; steps without a finite gradient are skipped and
    counted.
    """


METHOD = MatchingTrajectories
