"""In which steps classes come, in which orders: what class-incremental evaluation asks for, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import seeding
from ..config import EvaluateConfig
from ..errors import UsageError
from ..options import build, opt

__all__ = ["IncrementalOptions", "Increments", "resolve_increments", "step_sizes", "steps_of"]

PROTOCOL = "continual"
STEPS = (5,)
"""Of protocol `continual` when nothing is said: GIFT's and DM's figures have 5 and 10."""


@dataclass(frozen=True, kw_only=True)
class IncrementalOptions:
    """What `--set` says of class-incremental steps."""

    future: str = opt(
        "slice",
        "what stored labels say of classes that have not come yet: slice (nothing: seen classes are renormalised) or "
        "full (all they hold, which leaks and is flagged)",
        choices=("slice", "full"),
    )


@dataclass(frozen=True, kw_only=True)
class Increments:
    """In which steps the classes come, in which orders."""

    steps: tuple[int, ...]
    orders: tuple[tuple[int, ...], ...]
    """Permutations of all classes."""
    future: str
    """slice or full."""

    def leaks(self, labels: str) -> bool:
        """Whether labels of a kind tell a student of classes to come."""
        return self.future == "full" and labels != "hard"

    def seen(self, steps: int, order: int, step: int) -> Tensor:
        """Classes so far, (s,) int64, in the order in which they came."""
        count = sum(step_sizes(len(self.orders[order]), steps)[: step + 1])
        return torch.tensor(self.orders[order][:count])

    def record(self, labels: str) -> dict[str, Any]:
        """The manifest's record; runs are numbered order by order, seed by seed within each."""
        return {
            "steps": list(self.steps),
            "orders": [list(order) for order in self.orders],
            "future": self.future,
            "leaks_future_classes": self.leaks(labels),
        }


def step_sizes(classes: int, steps: int) -> list[int]:
    """How many classes each step brings: sizes differ by at most one, larger ones first.

    >>> step_sizes(10, 4)
    [3, 3, 2, 2]
    """
    small, larger = divmod(classes, steps)
    return [small + 1] * larger + [small] * (steps - larger)


def steps_of(config: EvaluateConfig) -> tuple[int, ...]:
    """In how many steps the classes come; empty where they come at once."""
    return tuple(dict.fromkeys(config.incremental)) or (STEPS if config.protocol == PROTOCOL else ())


def resolve_increments(
    config: EvaluateConfig, settings: Mapping[str, Any], classes: int, labels: str
) -> tuple[Increments | None, dict[str, Any]]:
    """The steps of an evaluation, or None where all classes come at once; and the settings that are left.

    Order o is the permutation of the stream ("incremental", "order", o).

    Args:
        config: of the evaluation.
        settings: what `--set` says.
        classes: of the data.
        labels: kinds that students train on, as `--labels` writes them.

    Raises:
        UsageError: more steps than classes; labels or a protocol that cannot come class by class.
    """
    steps = steps_of(config)
    if not steps:
        return None, dict(settings)
    options = build(IncrementalOptions, {name: settings[name] for name in settings if name == "future"})
    if max(steps) > classes:
        raise UsageError(
            f"--incremental asks for {max(steps)} steps, the data has {classes} classes: expected 2 to {classes}",
            field="incremental",
            hint=f"use --incremental {min(classes, 5)}",
        )
    _check_labels(config, labels)
    orders = tuple(
        tuple(torch.randperm(classes, generator=seeding.generator(config.seed, "incremental", "order", order)).tolist())
        for order in range(config.orders)
    )
    rest = {name: value for name, value in settings.items() if name != "future"}
    return Increments(steps=steps, orders=orders, future=options.future), rest


def _check_labels(config: EvaluateConfig, labels: str) -> None:
    kind, _plus, beside = labels.partition("+")
    if beside:
        raise UsageError(
            f"--incremental with {beside} labels: the net whose features they are knew the classes to come, and no "
            "part of a feature is of one class that could be left out",
            field="labels",
            hint=f"use --labels {kind}",
        )
    if kind == "online" or config.protocol in {"kd", "ddranking"}:
        what = f"--protocol {config.protocol}" if config.protocol in {"kd", "ddranking"} else "--labels online"
        raise UsageError(
            f"--incremental with {what}: its students see all classes at once",
            field="incremental",
            hint="use stored labels with --protocol continual or gift",
        )
