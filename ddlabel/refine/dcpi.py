"""DCPI: feature and attention labels learned by gradient or trajectory matching (earlier title: DRUPI)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ._gradient_learner import GradientLearning

__all__ = ["MATCHERS", "REFINEMENT", "LabelLearning"]

MATCHERS = {"dc": "LabelLearning", "mtt": "MttLearning", "datm": "DatmLearning"}
"""The class of each matcher; those of trajectories are in `_trajectory_learner.py`."""


@dataclass(frozen=True, kw_only=True)
class LabelLearning(GradientLearning):
    """Learns labels of features that only training sees, so that students trained with them agree with real data.

    With F the labels (K for each image), psi the net as far as the tapped block and the bar the pooling of attention
    labels, students minimise Eq. (3): cross entropy + lambda_reg * mean square of (bar psi(x) - F). `--matcher dc`
    (Eqs. 2 and 4) moves F so that the encoder's gradient of that loss agrees, class by class, with that of the cross
    entropy of real images: D + lambda_task * cross entropy of the class that the net's own head reads from F.
    `--matcher mtt` and `datm` put the label into every step of an unrolled student. Published weights are in Table 8;
    lambda_reg 0.5, lambda_task 0.01 and K 1 are the defaults where it has no row.

    Options here are those of `dc`; with `mtt` and `datm`, the options of these methods take the place of `steps` to
    `augment`.

    Differs from the authors' code in: lambda_task is read by the net's own head, where the code draws a new random
    linear layer at each call; with one loop, in which no net is trained, by the head that belongs to the first labels;
    no real epoch is spent on a net in every loop that nothing uses; contrastive terms have a gradient; no pooling is
    hidden in the regression; K labels are matched one by one, each by its own gradient; the gradient by labels is the
    exact one, by one pass forward instead of differentiating twice (Fact D) where the loss is affine in labels;
    statistics of batch norms are held while gradients are matched; where images stay, so do the step size and the soft
    labels of the students of `mtt` and `datm`.
    """

    @classmethod
    def for_settings(cls, settings: Mapping[str, Any]) -> type[Any]:
        """The learner of the matcher that the settings name.

        Raises:
            UsageError: an unknown matcher.
        """
        matcher = str(settings.get("matcher") or "dc")
        if matcher not in MATCHERS:
            raise UsageError(f"matcher is '{matcher}', expected one of {', '.join(MATCHERS)}", field="matcher")
        if matcher == "dc":
            return cls
        learner: type[Any] = getattr(importlib.import_module(f"{__package__}._trajectory_learner"), MATCHERS[matcher])
        return learner


REFINEMENT = LabelLearning
