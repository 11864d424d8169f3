"""What a distillation method is, and the loop that runs every one of them.

A method is a frozen record of options with `init`, `step` and `finish`; it owns no loop, no files and no randomness.
Its whole memory is a `State`, a dict of tensors, so that any method can be checkpointed and continued bit for bit:
step `i` draws from the stream ("distill", "step", i) whatever ran before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Generator, Tensor

from ..errors import DataError, DivergedError, UsageError
from ..events import Event, OnEvent, ignore
from ..seeding import generator
from ..space import Space

__all__ = ["Distilled", "Method", "Problem", "State", "TeacherNets", "begin_selection", "finish_selection", "run"]

State = dict[str, Tensor]
"""Everything a method remembers between steps. Steps return a new one and leave the tensors of the old one alone."""


class TeacherNets(Protocol):
    """What a method may ask of a teacher."""

    def features(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> Tensor:
        """Embeddings (n, f) on the CPU of uint8 pixels (n, c, h, w)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be distilled: real training images and the budget. Validation and test images never get here."""

    pixels: Tensor
    """(n, c, h, w) uint8 training images."""
    labels: Tensor
    """(n,) int64 in [0, k)."""
    classes: tuple[str, ...]
    space: Space
    """Model-input space of distilled images."""
    ipc: int
    """Distilled images per class."""
    arch: str
    """Canonical name of the net that optimising methods use."""
    flip: bool = True
    """Whether a mirrored image keeps its class; False for digits."""
    teacher: TeacherNets | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0

    @property
    def channels(self) -> int:
        """Colour channels of an image."""
        return int(self.pixels.shape[1])

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return int(self.pixels.shape[2])

    @cached_property
    def members(self) -> tuple[Tensor, ...]:
        """For each class, the ascending indices of its training images."""
        return tuple((self.labels == label).nonzero().flatten() for label in range(len(self.classes)))

    @cached_property
    def distilled_labels(self) -> Tensor:
        """(k*ipc,) int64 class of every distilled image, class-major."""
        return torch.arange(len(self.classes)).repeat_interleave(self.ipc)

    def features(self, label: int) -> Tensor:
        """The teacher's embeddings (m, f) of all training images of a class.

        Raises:
            DataError: an embedding is not finite.
        """
        if self.teacher is None:
            raise ValueError("a method that asks for features must need 'teacher'")
        members = self.members[label]
        features = self.teacher.features(self.pixels[members], device=self.device)
        broken = (~torch.isfinite(features).all(dim=1)).nonzero().flatten()
        if len(broken):
            raise DataError(
                f"the teacher's features of training image {int(members[broken[0]])} (class '{self.classes[label]}') "
                "are not finite",
                field="teacher",
                hint="use another checkpoint or teacher",
            )
        return features

    def check(self) -> None:
        """Refuse a budget that the data cannot meet.

        Raises:
            UsageError: `ipc` below 1.
            DataError: a class with fewer training images than `ipc`.
        """
        if self.ipc < 1:
            raise UsageError(f"option 'ipc' is {self.ipc}, expected at least 1", field="ipc")
        for name, members in zip(self.classes, self.members, strict=True):
            if len(members) < self.ipc:
                raise DataError(
                    f"class '{name}' has {len(members)} training images, --ipc asks for {self.ipc}",
                    field="ipc",
                    hint="lower --ipc or --validation",
                )


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What a method made: exactly one of `images` and `pixels`."""

    labels: Tensor
    """(n,) int64, class-major."""
    images: Tensor | None = None
    """(n, c, h, w) float32 in model-input space: optimised images."""
    pixels: Tensor | None = None
    """(n, c, h, w) uint8: real images, unchanged."""
    indices: Tensor | None = None
    """(n,) int64 training indices of chosen real images."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers for the history: the last loss, resolved step sizes."""


class Method(Protocol):
    """A distillation or selection method; the module that defines one names it METHOD."""

    needs: ClassVar[frozenset[str]]
    """Of {"teacher"}: refused before any work when the problem lacks it."""

    def step_count(self, problem: Problem) -> int:
        """Steps of a whole run: an option of optimised methods, the number of classes for selection."""
        ...

    def init(self, problem: Problem, generator: Generator) -> State:
        """The state before the first step."""
        ...

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """The state after step `index`, and numbers worth showing."""
        ...

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The result of the last state."""
        ...


def run(
    method: Method,
    problem: Problem,
    *,
    start: tuple[int, State] | None = None,
    on_event: OnEvent = ignore,
    on_checkpoint: Callable[[int, State], None] | None = None,
) -> Distilled:
    """Run a method from its first step, or from a checkpoint, to its result.

    Args:
        method: options of a method.
        problem: data and budget.
        start: steps done and the state after them, from `on_checkpoint` of the same run.
        on_event: told of every step, after `on_checkpoint`: the safe point for an interrupt.
        on_checkpoint: given the steps done and the state after every step, always finite. A state is never changed
            later, so it may be kept as it is.

    Raises:
        UsageError: `ipc` below 1, or no teacher for a method that needs one.
        DataError: a class with fewer training images than `ipc`.
        DivergedError: a metric or the state became NaN or infinite; the checkpoint before is good.
    """
    problem.check()
    if "teacher" in method.needs and problem.teacher is None:
        raise UsageError("this method needs features, expected a teacher", field="teacher")
    total = method.step_count(problem)
    done, state = start or (0, method.init(problem, generator(problem.seed, "distill", "init")))
    state = {name: value.to(problem.device) for name, value in state.items()}
    for index in range(done, total):
        state, metrics = method.step(problem, state, index, generator(problem.seed, "distill", "step", index))
        _check_finite(method, state, metrics, f"step {index + 1} of {total}")
        if on_checkpoint is not None:
            on_checkpoint(index + 1, state)
        on_event(Event(phase="distilling", done=index + 1, total=total, metrics=metrics))
    return method.finish(problem, state)


def begin_selection(problem: Problem) -> State:
    """The state of a selection method: `indices` (k, ipc) into the training images, -1 where not chosen yet."""
    return {"indices": torch.full((len(problem.classes), problem.ipc), -1)}


def finish_selection(problem: Problem, state: State) -> Distilled:
    """The chosen real images, byte for byte, and where they came from."""
    indices = state["indices"].cpu().flatten()
    return Distilled(labels=problem.distilled_labels, pixels=problem.pixels[indices], indices=indices)


def _check_finite(method: Any, state: State, metrics: Mapping[str, float], where: str) -> None:
    for name, number in metrics.items():
        if not math.isfinite(number):
            raise DivergedError(f"'{name}' is {number} at {where}", field=name, hint=_advice(method))
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise DivergedError(f"'{name}' is not finite at {where}", field=name, hint=_advice(method))


def _advice(method: Any) -> str | None:
    """Names the step sizes among the options of a method."""
    rates = [option.name for option in dataclasses.fields(method) if option.name.startswith("lr")]
    values = {name: getattr(method, name) for name in rates}
    named = (f"--set {name} (now {'auto' if value is None else format(value, 'g')})" for name, value in values.items())
    return f"lower {' or '.join(named)}" if rates else None
