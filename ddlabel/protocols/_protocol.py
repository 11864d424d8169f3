"""What a student protocol is: the published way of training a student, as a rule that gives a `Recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Interface

from ..training import Recipe

__all__ = ["LossChoice", "Protocol", "Student", "is_online", "loss_of"]


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
    factor: int | None = None
    """F, patches per axis of the mosaics that the images are, where the history says that RDED made them."""
    online: bool = False
    """Whether a live teacher answers, for any image there may be; else stored labels, of the images as they are."""


@dataclass(frozen=True)
class LossChoice:
    """The loss of a protocol."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Published values of its options; `--set` may override any of them."""


class Protocol(Interface):
    """A published training protocol.

    Two members are optional, and asked for by `is_online` and `loss_of`: `online`, true where a live teacher is part
    of the protocol; and `loss(student, labels)`, the `LossChoice` that the protocol trains on labels of a kind, or
    None, which leaves the loss to the kind of labels, as protocols without the member do.
    """

    test_evaluations: int
    """How often the published statistic looked at test data; the last look is reported, the best one noted."""

    def recipe(self, student: Student) -> Recipe:
        """The published hyper-parameters for one student; `--set` may override any of them."""
        ...


def is_online(protocol: Protocol) -> bool:
    """Whether a protocol wants a live teacher."""
    return bool(getattr(protocol, "online", False))


def loss_of(protocol: Protocol, student: Student, labels: str) -> LossChoice | None:
    """The protocol's loss on labels of a kind, or None where it leaves the choice to the kind."""
    choose = getattr(protocol, "loss", None)
    choice: LossChoice | None = None if choose is None else choose(student, labels)
    return choice
