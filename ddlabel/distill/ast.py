"""AST: alignment with smooth trajectories (Shen et al., 2023, arXiv:2310.10541)."""

from __future__ import annotations

from dataclasses import dataclass

from ._trajectory import TrajectoryMatching
from ._trajectory_options import preset

__all__ = ["METHOD"]


@dataclass(frozen=True, kw_only=True)
class AlignedTrajectories(TrajectoryMatching):
    """MTT with a perturbed start, momentum in the student and matching of the epochs in between.

    Experts are those of `train-teacher --optimizer smooth`. With its four switches off it is MTT.

    Differs from the authors' code in: k-means starts from one image of each of ipc centres, where theirs fixes ten
    centres, which fails below ipc 10; otherwise as `mtt`.
    """

    perturb: float = preset("perturb", 1.0)
    inner_momentum: float = preset("inner_momentum", 0.9)
    intermediate: str = preset("intermediate", "unit")
    syn_lr: float = preset("syn_lr", 0.01)


METHOD = AlignedTrajectories
