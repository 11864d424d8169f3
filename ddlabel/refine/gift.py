"""GIFT's label refinement: mix each label with the smoothed hard label (Shang et al., 2024, arXiv:2405.14736)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from ..errors import UsageError
from ..labels._labels import LabelSet
from ..options import opt
from ..refinement import refine_labels

__all__ = ["REFINEMENT"]


@dataclass(frozen=True, kw_only=True)
class GiftRefinement:
    """Baked into the bundle, L2-normalised; dense labels take the image's class for every view.

    Differs from the authors' code in: stored labels are refined once, where the code refines the teacher's answer in
    every step.
    """

    alpha: float = opt(0.1, "label smoothing", min=0, below=1)
    gamma: float = opt(0.1, "share of the smoothed hard label; 0 leaves the direction of the label", min=0, max=1)
    form: str = opt("paper", "weights gamma and 1 - gamma, or gamma and 1 as the code does", choices=("paper", "code"))

    def apply(self, labels: LabelSet, hard: Tensor) -> LabelSet:
        """Labels (n, v, k) in domain `unit`.

        Raises:
            UsageError: the labels were refined before, or are neither logits nor probabilities.
        """
        if labels.refined is not None or labels.domain == "unit":
            raise UsageError(
                f"'{labels.section.name}' was refined before, expected plain labels",
                field="labels",
                hint="run 'ddlabel augment-labels' again, then refine once",
            )
        if labels.domain not in {"logit", "prob"}:
            raise UsageError(
                f"'{labels.section.name}' holds '{labels.domain}' labels, expected logit or prob",
                field="labels",
                hint="the cosine of log-probabilities is another objective; run 'ddlabel augment-labels' again",
            )
        views, classes = labels.values.shape[1:]
        rows = labels.values.reshape(-1, classes)
        refined = refine_labels(rows, hard.repeat_interleave(views), alpha=self.alpha, gamma=self.gamma, form=self.form)
        options = {"method": "gift", **dataclasses.asdict(self), "input_domain": labels.domain}
        return dataclasses.replace(labels, values=refined.reshape(labels.values.shape), domain="unit", refined=options)


REFINEMENT = GiftRefinement
