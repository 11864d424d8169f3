"""Stages that can be stopped and continued: what a run depends on, and the state it leaves on the way.

A stage says once what it is about to make (`Progress.begin`) and, at every safe point, how its state can be taken
(`Progress.reached`). Whoever called it decides where the states go; the stage knows no file. A state is a bundle of
kind `partial`: the history entry and data record of the result, section `state.progress` with steps done, and the
stage's own sections.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle, NewSection, StageRecord
from ..data._dataset import Split
from ..data._stored_pixels import row_digests
from ..errors import BundleError, DdlabelError, InterruptedRunError, UsageError
from ..events import Event, OnEvent, ignore
from ..team import ALONE, Team
from ._differences import differences
from ._stage import Clock, memory_worded

__all__ = ["INTERVAL_S", "PROGRESS", "SHARE", "Progress", "Saved", "Task", "state_section"]

INTERVAL_S = 60.0
"""Seconds of work between two states that are written."""
SHARE = 0.02
"""Largest share of the time that writing states may take: slow ones are written less often."""
PROGRESS = "state.progress"
"""Section that says how far a partial bundle is."""

Sections = Callable[[], Sequence[NewSection]]
"""Takes the state of a safe point; called later or never, so what it refers to must not change any more."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a stage is about to make: everything that its bits depend on."""

    clock: Clock
    stage: str
    config: Mapping[str, Any]
    """Effective options, as the history of the result will hold them."""
    seed: int | None
    inputs: Sequence[Bundle] = ()
    data: Mapping[str, Any] | None = None
    """The manifest's record of the real data."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """The images that are read, by what they are called: other ones, or another order, are another task."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 of what else is read, by what it is called."""
    unit: str = "steps"
    """What is counted."""
    alike: bool = False
    """Of several processes all have the same state: the first one keeps it, and all continue from it."""

    def record(self, metrics: Mapping[str, Any]) -> StageRecord:
        """The history entry."""
        return self.clock.record(self.stage, self.config, seed=self.seed, inputs=self.inputs, metrics=metrics)


@dataclass(frozen=True)
class Saved:
    """A state to continue from."""

    bundle: Bundle
    done: int
    total: int

    def state(self, section: str) -> dict[str, Tensor]:
        """The tensors that `state_section` stored: on the CPU, in memory of their own, laid out as they were.

        Raises:
            BundleError: the section is missing or damaged.
        """
        stored = self.bundle.section(section)
        strides = stored.parameters.get("strides", {})
        state = {}
        for name in stored.tensors:
            tensor = self.bundle.tensor(name)
            stride = strides.get(name)
            # a copy, because torch aligns its own memory and kernels may round by alignment
            copy = torch.empty_like(tensor) if stride is None else _laid_out(tensor, stride, self.bundle.name)
            state[_unquote(name.removeprefix(f"{section}."))] = copy.copy_(tensor)
        return state


class Progress:
    """How far a stage is, and where its states go: by default nowhere.

    Args:
        saved: a partial bundle to continue from.
        save: stores a partial bundle, whole or not at all, in place of the one before.
        discard: removes the state of another run; called when this one begins anew.
        free_bytes: what is free where the result will be written, when known.
        team: whose processes each have a `Progress`.
        leading: the first process's state, where that is another one.
    """

    def __init__(
        self,
        *,
        saved: Bundle | None = None,
        save: Callable[[Bundle], None] | None = None,
        discard: Callable[[], None] | None = None,
        free_bytes: int | None = None,
        team: Team = ALONE,
        leading: Bundle | None = None,
    ) -> None:
        self.free_bytes = free_bytes
        self.kept: tuple[int, int, str] | None = None
        """Done, total and unit of the state that is stored."""
        self._saved, self._save, self._discard = saved, save, discard
        self._team, self._leading = team, leading
        self._task: Task | None = None
        self._images: dict[str, str] = {}
        self._newest: tuple[int, int, Sections] | None = None
        self._on_event: OnEvent = ignore
        self._last = 0.0
        self._cost = 0.0

    @property
    def keeps(self) -> bool:
        """Whether states go anywhere."""
        return self._save is not None

    def begin(self, task: Task, on_event: OnEvent = ignore) -> tuple[Task, Saved | None]:
        """Say what will be made, after all checks and before any work.

        Returns:
            The task, its clock counting the time of earlier runs, and the state to continue from.

        Raises:
            UsageError: the saved state is of other options, seed, device or threads, naming both sides of each.
            BundleError: it is of another stage, other inputs, images or versions; or damaged.
        """
        self._on_event, self._last = on_event, time.monotonic()
        follows = task.alike and not self._team.leads
        state = self._leading if follows else self._saved
        if self._save is not None or state is not None:
            self._images = {name: _digest(split) for name, split in task.splits.items()} | dict(task.digests)
        if follows:
            self._save = None
        saved, refusal = None, None
        try:
            saved = None if state is None else self._continued(task, state)
        except DdlabelError as error:
            refusal = error
        self._agree(task, saved, refusal)
        if state is None:
            self._task = task
            if self._discard is not None:
                self._discard()
        return self._task or task, saved

    def _continued(self, task: Task, state: Bundle) -> Saved:
        """A saved state that is of this task, whose clock goes on from it."""
        saved = _read(state)
        self._refuse_differences(task, saved)
        seconds = float(saved.bundle.manifest.history[-1]["time"]["seconds"])
        clock = dataclasses.replace(task.clock, ticks=task.clock.ticks - seconds)
        self._task = dataclasses.replace(task, clock=clock)
        if self._team.leads or not task.alike:
            self.kept = (saved.done, saved.total, task.unit)
        message = f"continuing after {saved.done} of {saved.total} {task.unit}"
        self._on_event(Event(phase="resuming", message=message))
        return saved

    def _agree(self, task: Task, saved: Saved | None, refusal: DdlabelError | None) -> None:
        """Nobody begins where another process refuses to, nor replaces a state that others have not opened yet.

        Raises:
            DdlabelError: our refusal.
            UsageError: the refusal of another process; only some have the state that should be everybody's.
        """
        word = (None if saved is None else saved.done, None if refusal is None else str(refusal))
        words = self._team.exchange_json(word)
        if refusal is not None:
            raise refusal
        for _done, text in words:
            if text is not None:
                raise UsageError(text, field="resume")
        steps = [done for done, _text in words]
        if task.alike and len(set(steps)) > 1:
            raise UsageError(
                f"the processes would continue after {', '.join(map(str, steps))} steps, expected one state for all",
                field="resume",
                hint="use --force to start over",
            )

    def reached(self, done: int, total: int, sections: Sections) -> None:
        """A safe point: remember it, and store it when it is time to.

        Args:
            done, total: steps, in the task's unit.
            sections: takes the state; see `Sections`.
        """
        if self._save is None:
            return
        self._newest = (done, total, sections)
        if time.monotonic() - self._last < max(INTERVAL_S, self._cost / SHARE):
            return
        self.rest()

    def rest(self) -> None:
        """Store the newest state, for now there is time: it is done, or the others have to be waited for."""
        try:
            self.keep()
        except InterruptedRunError:
            raise
        except DdlabelError as error:  # the result may be fine all the same
            self._last = time.monotonic()
            self._on_event(Event(phase="saving", message=f"warning: the state could not be kept: {error}"))

    def keep(self) -> None:
        """Store the newest state, unless it is stored.

        Raises:
            DdlabelError: it cannot be put together; the one before is still there.
            ResourceError: it cannot be written, or memory does not suffice.
        """
        if self._save is None or self._newest is None or self._task is None:
            return
        done, total, sections = self._newest
        started = time.monotonic()
        parameters = {"done": done, "total": total, "unit": self._task.unit, "images": self._images}
        if self._team.size > 1:
            parameters["process"] = [self._team.rank, self._team.size]
        own = NewSection(PROGRESS, "state", {}, parameters=parameters)
        with memory_worded():
            self._save(Bundle.create("partial", self._task.data, self._task.record({}), [own, *sections()]))
        self._newest, self.kept = None, (done, total, self._task.unit)
        self._last = time.monotonic()
        self._cost = self._last - started

    def _refuse_differences(self, task: Task, saved: Saved) -> None:
        parameters = saved.bundle.section(PROGRESS).parameters
        images, process = parameters.get("images", {}), parameters.get("process", [0, 1])
        here = [0 if task.alike else self._team.rank, self._team.size]
        if process != here:
            raise UsageError(
                f"{saved.bundle.name} is the state of {_said(process)}, this is {_said(here)}",
                field="resume",
                hint="use as many --processes as it was started with, or --force to start over",
            )
        theirs = {"data": saved.bundle.manifest.data, "images": images, **saved.bundle.manifest.history[-1]}
        files = [bundle.name for bundle in task.inputs]
        ours = {"data": task.data, "images": self._images, "files": files, **task.record({}).entry()}
        name = saved.bundle.name
        if theirs["stage"] != ours["stage"]:
            raise BundleError(
                f"{name}: a state of '{theirs['stage']}', this command is '{ours['stage']}'",
                field="stage",
                hint="use --force to start over",
            )
        options, files = differences(ours, theirs)
        advice = "use the options, files and versions it was started with, or --force to start over"
        problems = [f"{name}: {problem}" for problem in (*options, *files)]
        if options:
            raise UsageError.collect([*problems, f"this run cannot continue from {name}; {advice}"])
        if files:
            raise BundleError("; ".join(problems), field="resume", hint=advice)


def _said(process: Any) -> str:
    if not (isinstance(process, list) and len(process) == 2):
        return ascii(process)[:40]
    rank, size = process
    return "one process alone" if size == 1 else f"process {rank} of {size}"


def state_section(name: str, state: Mapping[str, Tensor], **parameters: Any) -> NewSection:
    """Tensors by any name as one section `state.…`; layouts of memory are kept, because kernels round by them."""
    tensors = {f"{name}.{_quote(key)}": value for key, value in state.items()}
    strides = {key: list(value.stride()) for key, value in tensors.items() if _has_own_layout(value)}
    return NewSection(name, "state", tensors, parameters=parameters | ({"strides": strides} if strides else {}))


def _read(bundle: Bundle) -> Saved:
    """The state in a bundle, every byte of it checked."""
    if bundle.kind != "partial" or not bundle.has(PROGRESS):
        raise BundleError(
            f"{bundle.name}: kind '{bundle.kind}', expected the state of an interrupted run",
            field="kind",
            hint="move it elsewhere" if bundle.kind != "partial" else "use --force to start over",
        )
    problems = bundle.verify()
    parameters = bundle.section(PROGRESS).parameters
    done, total = parameters.get("done"), parameters.get("total")
    if not (type(done) is int and type(total) is int and 0 <= done <= total):
        problems.append(f"{bundle.name}: {ascii(done)[:20]} of {ascii(total)[:20]} steps done")
    if problems or not isinstance(done, int) or not isinstance(total, int):
        raise BundleError("; ".join(problems[:5]), field=PROGRESS, hint="use --force to start over")
    return Saved(bundle, done, total)


def _digest(split: Split) -> str:
    """sha256 of images, each by its digest, and labels in their order."""
    digest = hashlib.sha256(repr(tuple(split.pixels.shape)).encode())
    digest.update(row_digests(split.pixels).data)
    digest.update(split.labels.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def _has_own_layout(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory in another order than row by row."""
    if tensor.is_contiguous():
        return False
    ordered = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    expected = 1
    for stride, size in ordered:
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _laid_out(tensor: Tensor, stride: Any, name: str) -> Tensor:
    """Empty memory for a tensor in a recorded order.

    Raises:
        BundleError: strides that do not fill the tensor.
    """
    numbers = isinstance(stride, list) and len(stride) == tensor.ndim and all(type(item) is int for item in stride)
    if numbers and sorted(stride)[0] >= 0:
        span = sum((size - 1) * step for size, step in zip(tensor.shape, stride, strict=True))
        if span < tensor.numel():
            empty = torch.empty_strided(tuple(tensor.shape), stride, dtype=tensor.dtype)
            if _has_own_layout(empty):
                return empty
    raise BundleError(
        f"{name}: strides {ascii(stride)[:60]} do not fit shape {tuple(tensor.shape)}",
        field="strides",
        hint="use --force to start over",
    )


def _quote(name: str) -> str:
    """A name in the letters that bundles allow; others are written as -<code>-."""
    return re.sub(r"[^a-z0-9._]", lambda match: f"-{ord(match.group()):x}-", name)


def _unquote(name: str) -> str:
    return re.sub(r"-([0-9a-f]{1,6})-", lambda match: chr(int(match.group(1), 16)), name)
