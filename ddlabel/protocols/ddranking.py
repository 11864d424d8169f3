"""Students of DD-Ranking: scores beside random images and real data (Li et al., 2025, arXiv:2505.13300)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from ..options import opt
from ..training import Recipe
from ._protocol import Student
from .dm import PROTOCOL as DM

__all__ = ["PROTOCOL", "RankingOptions"]


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """How the four scores are made; the recipe of the students has options of its own."""

    w: float = opt(0.5, "weight of IOR in LRS; HLR has the rest", min=0, max=1)
    w_augmented: float = opt(
        0.5, "weight gamma of what augmented students gain in ARS; others have the rest", min=0, max=1
    )
    rates: tuple[float, ...] = opt(
        (1e-3, 5e-3, 1e-2, 5e-2, 1e-1), "learning rates to choose from on held-out training images", above=0
    )
    real_epochs: int = opt(50, "epochs of the students of the whole training split", min=1, max=1_000_000)


@dataclass(frozen=True)
class RankingProtocol:
    """As `dm`, but for the learning rate, for 300 epochs.

    The four scores, HLR, IOR, LRS and ARS, are those of `ddlabel.scores`, of accuracies as fractions, seed by seed.
    HLR compares the whole training split with the images, both with hard labels; IOR the images with as many random
    ones, drawn for every seed, under the labels and the loss that are evaluated; ARS asks for the latter with and
    without augmentation. The learning rate is chosen from `rates` on the held-out part of the training split, once for
    every net and label mode, by the mean of the first students of the images and of random ones, which share it; the
    whole training split has its own, chosen the same way, and `real_epochs` epochs.

    Differs from the authors' code (0.2.0) in: accuracies are fractions, where the code puts percentages into the
    exponent; learning rates are chosen on held-out training images and the last epoch is reported, where both are
    chosen on test data; images and random ones share the rate; every run counts once, where those of hard labels count
    twice; seeds are explicit, where they come from the clock; images keep their size; `cosine` is the whole cosine,
    where theirs is half of one; students of real data are trained for `real_epochs`, where the code takes accuracies
    that it knows from a table.
    """

    options: ClassVar[type[RankingOptions]] = RankingOptions
    test_evaluations: int = 1

    def recipe(self, student: Student) -> Recipe:
        """That of `dm`, the same for every net; the learning rate is a placeholder for the one that is chosen."""
        return dataclasses.replace(DM.recipe(student), epochs=300)


PROTOCOL = RankingProtocol()
