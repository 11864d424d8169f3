"""All targets, and how many mutations each gets."""

from __future__ import annotations

from . import containers, payloads
from .harness import Target

__all__ = ["TARGETS", "shares"]

TARGETS: tuple[Target, ...] = (*containers.TARGETS, *payloads.TARGETS)
_WEIGHTS = {"header": 26, "frame": 14, "manifest": 8, "file": 8, "pipe": 8, "labels": 8, "inspect": 1}
"""Hundredths of all mutations; the codecs share what is left. Headers are cheap to try, whole manifests are not."""


def shares(count: int) -> list[tuple[Target, int]]:
    """At least `count` mutations, divided among the targets."""
    codecs = len(TARGETS) - len(_WEIGHTS)
    left = (100 - sum(_WEIGHTS.values())) / codecs
    return [(target, -int(-count * _WEIGHTS.get(target.name, left) // 100)) for target in TARGETS]
