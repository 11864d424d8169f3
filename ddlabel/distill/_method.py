"""What a distillation method is, and the one loop that drives all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

from .. import seeding
from ..data._stored_pixels import Pixels, take
from ..difficulty import SCORES
from ..errors import DataError, DivergedError, UsageError
from ..events import Event, OnEvent, ignore
from ..nets._net import Net
from ..options import describe
from ..selection import check_budget
from ..space import Space
from ..teachers import Teacher
from ..team import ALONE, Team
from ._canvas import PIXELS, Canvas
from ._team import check_share, group, merge, steps

__all__ = [
    "Distilled",
    "FeatureSource",
    "Method",
    "Problem",
    "State",
    "TrajectorySource",
    "check",
    "missing_scores",
    "run",
]

State = dict[str, Tensor]
"""Everything a method knows between two steps, as named tensors: it can be stored and taken up again.

A step returns a new state and leaves the old one as it was."""


class FeatureSource(Protocol):
    """Something that embeds images: a teacher."""

    def features(self, pixels: Pixels, *, device: torch.device | str = "cpu") -> Tensor:
        """(n, f) float32 on the CPU, of uint8 pixels (n, c, h, w)."""
        ...

    def outputs(self, pixels: Pixels, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Logits (n, k) and features (n, f), float32 on the CPU."""
        ...


class TrajectorySource(Protocol):
    """Trained nets, epoch by epoch: experts."""

    arch: str
    """Canonical name of their net."""
    epochs: range
    """Epochs recorded; parameters after epoch e, 0 being the initial ones."""
    teachers: tuple[Teacher, ...]
    """The experts after their last epoch, as labellers."""

    def __len__(self) -> int:
        """How many experts."""
        ...

    def checkpoint(self, expert: int, epoch: int) -> Tensor:
        """(P,) float32 parameters on the CPU, in the order of `named_parameters()`."""
        ...

    def name(self, expert: int) -> str:
        """For messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be distilled. Holds training images only."""

    pixels: Pixels
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
    trajectories: TrajectorySource | None = None
    backbones: tuple[Net, ...] = ()
    """Trained nets to look through: in eval mode, frozen, on the device; a chosen checkpoint of every teacher."""
    filtered: bool = False
    """Whether difficult or easy images were dropped from the training split (`--filter`)."""
    canvas: Canvas = PIXELS
    """How the distilled images are parametrised."""
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    """Difficulty (n,) that was recorded when the teacher was trained, by name; higher is harder."""
    team: Team = ALONE
    """Processes that share the steps, or the work of each."""

    def members(self, label: int) -> Tensor:
        """Indices of the real images of one class, ascending."""
        return self._members[label]

    def features(self, label: int) -> Tensor:
        """The teacher's embeddings (m, f) of the real images of one class.

        Raises:
            DataError: an embedding is not finite.
        """
        members = self.members(label)
        features = self._teacher.features(take(self.pixels, members), device=self.device)
        self._check_finite(features, label, "the teacher's features")
        return features

    def outputs(self, label: int) -> tuple[Tensor, Tensor]:
        """The teacher's logits (m, k) and embeddings (m, f) of the real images of one class.

        Raises:
            DataError: one of them is not finite.
        """
        logits, features = self._teacher.outputs(take(self.pixels, self.members(label)), device=self.device)
        self._check_finite(logits, label, "the teacher's logits")
        self._check_finite(features, label, "the teacher's features")
        return logits, features

    def difficulty(self, name: str, label: int) -> Tensor:
        """Scores (m,) float32 of the real images of one class, higher is harder.

        Those that were recorded, else what the teacher says now, in the precision in which scores are recorded.

        Args:
            name: of `difficulty.SCORES`, or one of those recorded.
            label: the class.

        Raises:
            UsageError: a score that only a training run gives, which was not recorded.
            DataError: a score is not finite.
        """
        members = self.members(label)
        if name in self.scores:
            scores = self.scores[name][members]
        elif name in SCORES:
            logits, features = self.outputs(label)
            scores = SCORES[name](logits, self.labels[members], features).float()
        else:
            raise missing_scores("this method", name)
        self._check_finite(scores, label, f"the scores '{name}'")
        return scores

    @property
    def _teacher(self) -> FeatureSource:
        if self.teacher is None:
            raise ValueError("a method that asks for features must need a teacher")
        return self.teacher

    def _check_finite(self, values: Tensor, label: int, what: str) -> None:
        """Refuse values (m, ...) of a class, naming the first broken image."""
        broken = (~torch.isfinite(values.reshape(len(values), -1)).all(dim=1)).nonzero().flatten()
        if len(broken):
            raise DataError(
                f"{what} of training image {int(self.members(label)[broken[0]])} (class '{self.classes[label]}') "
                "are not finite",
                field="teacher",
                hint="use another teacher",
            )

    @cached_property
    def _members(self) -> tuple[Tensor, ...]:
        return tuple((self.labels == label).nonzero().flatten() for label in range(len(self.classes)))


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
    weights: Tensor | None = None
    """(k*ipc,) float32: how many images of its class each of them stands for; of a class they sum to its images."""
    patches: Tensor | None = None
    """(k*ipc, p, 4) int64: training image, top, left and side in pixels of the p crops that each image is made of."""
    patch_losses: Tensor | None = None
    """(k*ipc, p) float32: what the crops were chosen by, lower is better."""
    logits: Tensor | None = None
    """(k*ipc, k) float32 soft labels that were learned with the images."""
    lr: float | None = None
    """Step size for students that was learned with the images."""
    metrics: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A frozen dataclass of options with these members; one file, `METHOD` names it.

    It may also have `check(problem)`, which refuses what cannot work; `notes(problem)`, what a user should know before
    the first step; `memory(problem)`, the bytes that a step takes at most beside the data set; `memory_knobs`, names
    of the options that lower them; and `reads`, names of difficulty scores that it takes from the teacher's bundle
    where they were recorded.

    Several processes share what one of two further members allows, and are refused without: `group(problem)`, how many
    steps in a row belong together and need nothing that other steps leave (of a class, of a batch of images; 0: they
    do), or `shares_steps(problem)`, whether a step shares its work by `problem.team` and leaves all with the same
    state.
    """

    needs: ClassVar[frozenset[str]]
    """Subset of {"teacher", "trajectories", "backbones", "scores.NAME"}, the last for recorded scores: refused before
    any work."""

    def total_steps(self, problem: Problem) -> int:
        """Steps the driver runs: an option of optimising methods, one per class for those that select."""
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
    on_wait: Callable[[], None] = lambda: None,
) -> Distilled:
    """Drive a method to its end.

    Args:
        method: its options.
        problem: the real images and the budget.
        start: steps done and the state after them; continuing gives the same bits as never having stopped, because
            step i draws from the stream ("distill", "step", i) of the seed alone.
        on_event: told of every step, after `on_checkpoint`; what it raises stops the run.
        on_checkpoint: given (steps done, state) after every step whose state is finite. Of several processes each
            counts its own steps.
        on_wait: called before the other processes are waited for.

    Raises:
        UsageError: a budget below one image; no teacher or recorded scores for a method that needs them.
        DataError: a class has fewer images than the budget.
        DivergedError: a loss or a state became non-finite, naming step and option.
    """
    check(method, problem)
    own = steps(method, problem)
    total = len(own)
    for note in getattr(method, "notes", _no_notes)(problem):
        on_event(Event(phase="distilling", message=note))
    shared = problem.team.size > 1 and group(method, problem) > 0
    first: State = {}
    if start is None or shared:
        first = method.prepare(problem, seeding.generator(problem.seed, "distill", "prepare"))
    done, state = start or (0, first)
    state = {name: tensor.to(problem.device) for name, tensor in state.items()}
    for position in range(done, total):
        index = own[position]
        generator = seeding.generator(problem.seed, "distill", "step", index)
        before = state
        state, metrics = method.step(problem, before, index, generator)
        _check_finite(method, _changed(before, state), metrics, f"step {index + 1} of {method.total_steps(problem)}")
        if on_checkpoint is not None:
            on_checkpoint(position + 1, state)
        on_event(Event(phase="distilling", done=position + 1, total=total, metrics=metrics))
    if shared:
        on_wait()
        state = merge(method, problem, first, state)
    return method.finish(problem, state)


def check(method: Method, problem: Problem) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        UsageError: a budget below one image, something the method needs is missing, or options that exclude each other.
        DataError: a class has fewer images than the budget.
    """
    check_budget(problem.labels, problem.classes, problem.ipc)
    if "teacher" in method.needs and problem.teacher is None:
        raise UsageError("this method needs features, expected a teacher", field="teacher")
    if "trajectories" in method.needs and problem.trajectories is None:
        raise UsageError("this method needs trajectories, expected teachers that recorded them", field="teacher")
    if "backbones" in method.needs and not problem.backbones:
        raise UsageError("this method looks through trained nets, expected a teacher", field="teacher")
    for name in sorted(need.removeprefix("scores.") for need in method.needs if need.startswith("scores.")):
        if name not in problem.scores:
            raise missing_scores("this method", name)
    check_share(method, problem)
    getattr(method, "check", _nothing)(problem)


def _changed(before: State, after: State) -> State:
    """The tensors of a state that a step replaced: those it kept were checked when they came."""
    return {name: tensor for name, tensor in after.items() if tensor is not before.get(name)}


def _nothing(problem: Problem) -> None:
    del problem


def _no_notes(problem: Problem) -> tuple[str, ...]:
    del problem
    return ()


def missing_scores(who: str, name: str) -> UsageError:
    """What to say where difficulty scores were not recorded."""
    return UsageError(
        f"{who} needs difficulty scores '{name}', which only a training run gives; expected a teacher that recorded "
        "them",
        field="teacher",
        hint=f"run 'ddlabel train-teacher --experts 0 --scores {name}' and give its bundle by --teacher",
    )


def _check_finite(method: Method, state: State, metrics: Mapping[str, float], where: str) -> None:
    hint = _what_to_lower(method)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(f"'{name}' is {value} at {where}", field=name, hint=hint)
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise DivergedError(f"'{name}' became non-finite at {where}", field=name, hint=hint)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float().square().sum())):
            raise DivergedError(f"'{name}' became too large to square at {where}", field=name, hint=hint)


def _what_to_lower(method: Method) -> str:
    """The step sizes among a method's options, as typed."""
    options = [option.name for option in describe(type(method))]
    names = [
        name for start in ("lr_", "lambda_reg", "tv_weight", "l2_weight") for name in options if name.startswith(start)
    ]
    rates = {name: getattr(method, name) for name in names if isinstance(getattr(method, name), float | None)}
    rates = {name: rate for name, rate in rates.items() if rate != 0}
    said = [f"--set {name} (now {'auto' if rate is None else f'{rate:g}'})" for name, rate in rates.items()]
    return f"lower {' or '.join(said)}" if said else "lower the step sizes"
