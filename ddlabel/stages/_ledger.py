"""What `train-teacher` has done so far: nets that scored, experts that are finished, and the one in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle, NewSection
from ..errors import BundleError
from ..training import TrainState
from ._experts import Recorder
from ._partial import Progress, Saved, state_section
from ._scores import ScoredNet

__all__ = ["Ledger", "Running"]

SCORES, EXPERTS, RUNNING = "state.scores", "state.experts", "state.expert"
_PARTS = ("net", "optimizer", "average")


@dataclass(frozen=True)
class Running:
    """An expert after some of its epochs; nothing in it changes any more."""

    number: int
    state: TrainState
    checkpoints: tuple[NewSection, ...]
    """Of the epochs kept so far."""
    rows: tuple[Tensor, ...]
    """Its trajectory so far, (P,) float32 each."""
    buffers: tuple[Tensor, ...]

    def recorder(self, epochs: range) -> Recorder:
        """The trajectory, to be continued."""
        recorder = Recorder(epochs)
        recorder.rows += self.rows
        recorder.buffers += self.buffers
        return recorder


class Ledger:
    """Tells a `Progress` of everything that is finished, and knows what an earlier run did.

    Args:
        progress: what is told.
        saved: the state of an earlier run.
        score_epochs: epochs of each net that scores; 0 without any.
        rounds: epochs of each expert.
        total: epochs in all.

    Raises:
        BundleError: a state that makes no sense.
    """

    def __init__(self, progress: Progress, saved: Saved | None, *, score_epochs: int, rounds: int, total: int) -> None:
        self._progress = progress
        self._score_epochs, self._rounds, self._total = score_epochs, rounds, total
        self.nets: tuple[ScoredNet, ...] = ()
        self._finished: dict[int, tuple[NewSection, ...]] = {}
        self.running: Running | None = None
        """The expert that was in training when the earlier run stopped."""
        if saved is not None:
            try:
                self._read(saved)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BundleError(
                    f"{saved.bundle.name}: its sections do not say which nets are trained ({error})",
                    field=EXPERTS,
                    hint="use --force to start over",
                ) from error

    def sections_of(self, number: int) -> tuple[NewSection, ...] | None:
        """What a finished expert left; None when it is not finished."""
        return self._finished.get(number)

    def scored(self, nets: Sequence[ScoredNet]) -> None:
        """So many nets have scored."""
        self.nets = tuple(nets)
        self._tell(None)

    def trained(self, running: Running) -> None:
        """An expert has finished an epoch."""
        self._tell(running)

    def finish(self, number: int, sections: Sequence[NewSection]) -> None:
        """An expert is finished."""
        self._finished[number] = tuple(sections)
        self._tell(None)

    def _tell(self, running: Running | None) -> None:
        nets, finished = self.nets, dict(self._finished)
        epochs = self._score_epochs * len(nets) + self._rounds * len(finished)
        done = epochs + (0 if running is None else running.state.epoch)
        self._progress.reached(done, self._total, lambda: _sections(nets, finished, running))

    def _read(self, saved: Saved) -> None:
        bundle = saved.bundle
        if bundle.has(SCORES):
            self.nets = tuple(_scored_nets(saved))
        if bundle.has(EXPERTS):
            listed = bundle.section(EXPERTS).parameters["sections"]
            self._finished = {int(number): _carried(bundle, names) for number, names in listed.items()}
        if bundle.has(RUNNING):
            self.running = _running(saved)


def _sections(
    nets: Sequence[ScoredNet], finished: Mapping[int, Sequence[NewSection]], running: Running | None
) -> list[NewSection]:
    sections = [section for expert in finished.values() for section in expert]
    if finished:
        listed = {str(number): [section.name for section in expert] for number, expert in finished.items()}
        sections.append(NewSection(EXPERTS, "state", {}, parameters={"sections": listed}))
    if nets:
        values = {str(member): net.values for member, net in enumerate(nets)}
        kept = [net.checkpoint for net in nets if net.checkpoint is not None]
        sections.append(
            state_section(
                SCORES,
                values,
                accuracy=[dict(net.accuracy) for net in nets],
                checkpoints=[section.name for section in kept],
            )
        )
        sections += kept
    if running is not None:
        sections += [_running_section(running), *running.checkpoints]
    return sections


def _running_section(running: Running) -> NewSection:
    state = running.state
    tensors = {f"{part}:{name}": value for part in _PARTS for name, value in getattr(state, part).items()}
    for name, rows in (("rows", running.rows), ("buffers", running.buffers)):
        if rows:
            tensors[name] = torch.stack(rows)
    return state_section(
        RUNNING,
        tensors,
        number=running.number,
        epoch=state.epoch,
        loss=state.loss,
        checkpoints=[section.name for section in running.checkpoints],
    )


def _running(saved: Saved) -> Running:
    said, tensors = saved.bundle.section(RUNNING).parameters, saved.state(RUNNING)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    trajectory: dict[str, tuple[Tensor, ...]] = {"rows": (), "buffers": ()}
    for key, value in tensors.items():
        part, _, name = key.partition(":")
        if part in parts:
            parts[part][name] = value
        else:
            trajectory[part] = tuple(row.clone() for row in value.unbind())
    state = TrainState(int(said["epoch"]), float(said["loss"]), *(parts[part] for part in _PARTS))
    checkpoints = _carried(saved.bundle, said["checkpoints"])
    return Running(int(said["number"]), state, checkpoints, trajectory["rows"], trajectory["buffers"])


def _scored_nets(saved: Saved) -> list[ScoredNet]:
    said, values = saved.bundle.section(SCORES).parameters, saved.state(SCORES)
    checkpoints: list[NewSection | None] = [*_carried(saved.bundle, said["checkpoints"])]
    kept = checkpoints or [None] * len(values)
    rows = [values[str(member)] for member in range(len(values))]
    return [ScoredNet(*net) for net in zip(rows, map(dict, said["accuracy"]), kept, strict=True)]


def _carried(bundle: Bundle, names: Any) -> tuple[NewSection, ...]:
    return tuple(bundle.carry(str(name)) for name in names)
