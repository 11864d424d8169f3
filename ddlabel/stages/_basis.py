"""In whose features labels are told apart: those of the nets that they began with, where these are at hand."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle
from ..labels._privileged import PrivilegedSet
from ..nets._net import Net
from ..privileged import _measures as measures
from ..privileged._form import Form
from ..teachers import Teacher
from ._alignment import Real

__all__ = ["Sources", "own_nets"]

REAL_FEATURES = 1000
"""Real images, about, whose features labels are told apart by."""


class Sources:
    """Reduced features of the same real images by several nets, and heads refitted on them, on the CPU."""

    def __init__(self, real: Real, form: Form) -> None:
        classes = len(real.dataset.info.classes)
        each = max(2, REAL_FEATURES // classes)
        drawn = [real.of_class(label, each, "features") for label in range(classes)]
        self.images = torch.cat(drawn)
        self.hard = torch.cat([torch.full((len(part),), label) for label, part in enumerate(drawn)])
        self.form, self.classes = form, classes
        self.features: list[Tensor] = []
        self.heads: list[measures.Head] = []

    def add(self, net: Net) -> None:
        """One net more, in the state it is in."""
        with torch.no_grad():
            parts = [self.form.reduce(net.tap(part, self.form.layer)[0]) for part in self.images.split(64)]
        features = torch.cat(parts).flatten(1).cpu()
        self.features.append(features)
        self.heads.append(measures.refit_head(features, self.hard, self.classes))

    def tell_apart(self, labels: Tensor, hard: Tensor) -> dict[str, float]:
        """Means over nets."""
        scores = [head.score(labels, hard) for head in self.heads]
        near = [measures.nearest_mean_accuracy(labels, hard, features, self.hard) for features in self.features]
        return {
            "head_accuracy": statistics.mean(accuracy for accuracy, _entropy in scores),
            "head_cross_entropy": statistics.mean(entropy for _accuracy, entropy in scores),
            "nearest_mean_accuracy": statistics.mean(near),
        }


def own_nets(
    privileged: PrivilegedSet, history: Sequence[Mapping[str, Any]], teachers: Sequence[Bundle], device: torch.device
) -> list[Net]:
    """The nets whose features the labels are, or began as; none where they are not known or not at hand.

    Assigned labels are features of the checkpoints that the stage in the history names, which need not be the last
    ones. Learned labels began as features of teachers where `init` is `teacher`; otherwise the teachers of the section
    are the experts whose trajectories were matched, and the nets that gave the first labels were not kept.

    Args:
        privileged: the labels.
        history: of their bundle.
        teachers: at hand, in any order, others among them.
        device: of the nets.
    """
    at_hand = {bundle.content: bundle for bundle in teachers}
    makers = list(privileged.section.teacher or ())
    if not makers or not at_hand.keys() >= set(makers):
        return []
    loaded = [Teacher(at_hand[content]) for content in makers]
    names, most = _checkpoints(privileged, history, len(loaded))
    chosen = [(one, point) for one, which in zip(loaded, names, strict=False) for point in one.select(which)][:most]
    if any(point.arch != privileged.form.arch for _one, point in chosen):
        return []
    return [one.net(point, device) for one, point in chosen]


def _checkpoints(
    privileged: PrivilegedSet, history: Sequence[Mapping[str, Any]], teachers: int
) -> tuple[list[str], int | None]:
    """For each teacher which of its checkpoints gave features, and how many nets at most; no names if unknown."""
    kind, mode = privileged.kind, privileged.parameters.get("mode")
    stage, key = ("augment-labels", "kind") if mode == "assigned" else ("refine", "labels")
    made = [entry["config"] for entry in history if entry["stage"] == stage and entry["config"].get(key) == kind]
    if not made:
        return [], None
    options = made[-1].get("options", {})
    if mode == "assigned":
        names = list(made[-1].get("checkpoints", []))
        return (names if len(names) == teachers else []), None
    if options.get("init") == "teacher":
        return [str(options.get("init_checkpoint", "last"))] * teachers, options["k"]
    return [], None
