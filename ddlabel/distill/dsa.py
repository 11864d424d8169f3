"""DSA: gradient matching with differentiable siamese augmentation (Zhao & Bilen, ICML 2021, arXiv:2102.08259)."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import opt
from .dc import GradientMatching

__all__ = ["METHOD", "SiameseGradientMatching"]


@dataclass(frozen=True, kw_only=True)
class SiameseGradientMatching(GradientMatching):
    """DC that starts from real images and augments both sides of every match by one shared draw.

    The net is trained between loops with an augmentation drawn per image. Everything else is DC; with `augment=none`
    the two are the same. Students should be trained by protocol `dm`, which augments too.

    Differs from the authors' code in: what DC differs in; the global generator is not reseeded by the augmentation.
    """

    init: str = opt("real", "initial images: random real ones, or normal noise", choices=("real", "noise"))
    augment: str = opt("dsa", "augmentation, the same draw for real and distilled images", choices=("dsa", "none"))


METHOD = SiameseGradientMatching
