"""What a distillation method is, and the one loop that drives all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

from .. import seeding
from ..errors import DivergedError
from ..events import Event, OnEvent, ignore
from ..selection import check_budget
from ..space import Space

__all__ = ["Distilled", "FeatureSource", "Method", "Problem", "State", "finish_selection", "run", "select_by_class"]

State = dict[str, Tensor]
"""Everything a method knows between two steps, as named tensors: it can be stored and taken up again."""


class FeatureSource(Protocol):
    """Something that embeds images: a teacher."""

    def features(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> Tensor:
        """(n, f) float32 on the CPU, of uint8 pixels (n, c, h, w)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be distilled. Holds training images only."""

    pixels: Tensor
    """(n, c, h, w) uint8 real images of the training split."""
    labels: Tensor
    """(n,) int64."""
    classes: tuple[str, ...]
    space: Space
    ipc: int
    arch: str
    """Canonical name of the net to optimise through."""
    flip: bool
    """Whether mirroring is a fair augmentation of these images."""
    teacher: FeatureSource | None
    device: torch.device
    seed: int

    def members(self, label: int) -> Tensor:
        """Indices of the real images of one class, ascending."""
        return (self.labels == label).nonzero().flatten()


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What a method gives back: real pixels exactly, or optimised images."""

    labels: Tensor
    """(k*ipc,) int64, class-major."""
    pixels: Tensor | None = None
    """(k*ipc, c, h, w) uint8, when real images were selected."""
    images: Tensor | None = None
    """(k*ipc, c, h, w) float32 in model-input space, when they were optimised."""
    indices: Tensor | None = None
    """(k*ipc,) int64 training images selected."""
    metrics: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A frozen dataclass of options with these members; one file, `METHOD` names it."""

    needs: ClassVar[frozenset[str]]
    """Subset of {"teacher"}: refused before any work."""

    @property
    def total_steps(self) -> int:
        """Steps the driver runs."""
        ...

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """The state before the first step."""
        ...

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """One step: the next state and metrics worth showing; `loss` is checked for finiteness."""
        ...

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The result."""
        ...


def run(
    method: Method,
    problem: Problem,
    *,
    start: tuple[int, State] | None = None,
    on_event: OnEvent = ignore,
    on_checkpoint: Callable[[int, State], None] | None = None,
) -> Distilled:
    """Drive a method to its end.

    Args:
        method: its options.
        problem: the real images and the budget.
        start: steps done and the state after them; continuing gives the same bits as never having stopped, because
            step i draws from the stream ("distill", "step", i) of the seed alone.
        on_event: told of progress every step.
        on_checkpoint: given (steps done, state) after every step whose state is finite.

    Raises:
        DataError: a class has fewer images than the budget.
        DivergedError: a loss or a state became non-finite, naming step and option.
    """
    check_budget(problem.labels, problem.classes, problem.ipc)
    if start is None:
        start = (0, method.prepare(problem, seeding.generator(problem.seed, "distill", "prepare")))
    done, state = start
    metrics: dict[str, float] = {}
    for index in range(done, method.total_steps):
        generator = seeding.generator(problem.seed, "distill", "step", index)
        state, metrics = method.step(problem, state, index, generator)
        _check_finite(state, metrics, index, method)
        if on_checkpoint is not None:
            on_checkpoint(index + 1, state)
        on_event(Event(phase="distilling", done=index + 1, total=method.total_steps, metrics=metrics))
    return method.finish(problem, state)


def select_by_class(problem: Problem, choose: Callable[[int, Tensor], Tensor]) -> State:
    """The state of a selection method: `choose(label, members)` gives positions within each class."""
    parts = []
    for label in range(len(problem.classes)):
        members = problem.members(label)
        parts.append(members[choose(label, members)[: problem.ipc]])
    return {"indices": torch.cat(parts)}


def finish_selection(problem: Problem, state: State) -> Distilled:
    """The chosen real images, bit for bit."""
    indices = state["indices"]
    return Distilled(labels=problem.labels[indices], pixels=problem.pixels[indices], indices=indices)


def _check_finite(state: State, metrics: Mapping[str, float], index: int, method: Method) -> None:
    total = method.total_steps
    chosen = getattr(method, "lr_images", None)
    rate = "" if chosen is None else f" (now {chosen})"
    for name, value in metrics.items():
        if value != value or value in (float("inf"), float("-inf")):
            raise DivergedError(
                f"'{name}' is {value} at step {index + 1} of {total}",
                field=name,
                hint=f"lower --set lr_images{rate}",
            )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DivergedError(
                f"'{name}' became non-finite at step {index + 1} of {total}",
                field=name,
                hint=f"lower --set lr_images{rate}",
            )
