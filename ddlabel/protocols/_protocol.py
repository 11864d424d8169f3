"""What a student protocol is: the published way of training a student, as a rule that gives a `Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol as Interface

from ..training import Recipe

__all__ = ["Protocol", "Student"]


@dataclass(frozen=True, kw_only=True)
class Student:
    """What a protocol may look at when it chooses hyper-parameters."""

    arch: str
    """Canonical name of the net."""
    stored_images: int
    """M, the images in the bundle."""
    learned_lr: float | None
    """Step size that the distillation learned, if the bundle has one (`student.lr`)."""
    classes: int
    """k."""
    side: int
    """Of the images, in pixels."""


class Protocol(Interface):
    """A published training protocol."""

    test_evaluations: int
    """How often the published statistic looked at test data; the last look is reported, the best one noted."""

    def recipe(self, student: Student) -> Recipe:
        """The published hyper-parameters for one student; `--set` may override any of them."""
        ...
