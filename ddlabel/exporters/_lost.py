"""What of a bundle an export does not hold, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ._exporter import Content

__all__ = ["lost_labels", "lost_norms", "lost_pictures", "lost_sections", "lost_whitening"]

_CARRIED = ("images", "labels", "transform", "student")
"""Kinds of sections that have their own sentences."""


def lost_pictures(content: Content) -> list[str]:
    """What 8 bits lose, and that training sees whitened images."""
    pictures = content.pictures
    if pictures is None:
        return []
    lost = lost_whitening(content)
    if pictures.view is None:
        return lost
    shown = (
        "cut to [0, 1]"
        if pictures.view == "clip"
        else f"of contrast stretched from [{pictures.low:.3f}, {pictures.high:.3f}], at most mean +- 2.5 "
        "standard deviations of the set, to [0, 1]"
    )
    return [
        f"images are float32 in {content.stored.space.kind} space; pictures are 8 bits, {shown}: "
        f"{pictures.clipped:.2%} of the values are clipped, rms error {pictures.rmse:.2g} of [0, 1], in training "
        f"space {100 * pictures.rmse_training:.2g} % of the images' rms",
        *lost,
    ]


def lost_whitening(content: Content) -> list[str]:
    """Of formats without a place for the matrix."""
    if content.stored.space.zca is None:
        return []
    return ["students train on ZCA-whitened images; mean and matrix of the whitening are not in this format (npz)"]


def lost_labels(content: Content) -> list[str]:
    """Label sections that are not exported."""
    kept = {*content.labels, *content.privileged, "hard"}
    left = [section for section in content.bundle.sections("labels") if section.role not in kept]
    return [
        f"{section.role} labels are left out{' (they are stale: the images changed)' if section.stale else ''}"
        for section in left
    ]


def lost_norms(content: Content) -> list[str]:
    """Of formats whose arrays have a row for each image."""
    kinds = [kind for kind, features in content.privileged.items() if features.norm is not None]
    return [f"the norm that {kind} labels are compared under is not in this format (npz)" for kind in kinds]


def lost_sections(content: Content, *, but: Sequence[str] = ()) -> list[str]:
    """Other sections, and the scores; how they were made is in the bundle alone.

    Args:
        content: what is exported.
        but: names of sections that are in the export all the same.
    """
    names = [item.name for item in content.bundle.sections() if item.kind not in _CARRIED and item.name not in but]
    lost = [f"sections left out: {', '.join(names)}"] if names else []
    if content.bundle.manifest.evaluations and "evaluations" not in but:
        lost.append("scores of the bundle are left out (--format scores)")
    return lost
