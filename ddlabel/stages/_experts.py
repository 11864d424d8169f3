"""What `train-teacher` keeps of an expert: its parameters after every epoch, in memory or, when many, on disk."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from ..bundle import NewSection, Spool
from ..config import TrainTeacherConfig
from ..errors import UsageError
from ..schedules import Recipe
from ..tensors import FileTensor, RawTensor
from ..trajectories import flatten, flatten_buffers, trajectory_section

__all__ = ["PRESETS", "SPOOL_BYTES", "Recorder", "Store", "choose_epochs", "course", "kept_epochs", "recorded_epochs"]

SPOOL_BYTES = 512 * 2**20
"""Trajectories of a run beyond this many bytes wait on disk to be saved, one expert at a time in memory."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {},
    "gsam": {"optimizer": "gsam", "rho": 0.01, "alpha": 0.3, "adaptive": True},
    "smooth": {"momentum": 0.9, "weight_decay": 1e-3, "lr": 3e-3, "schedule": "ast"},
}
"""Recipe fields by `--optimizer`: MTT's SGD, FTD's GSAM (arXiv:2211.11004), AST's SGD (arXiv:2310.10541)."""


def kept_epochs(keep: Sequence[int], rounds: int) -> frozenset[int]:
    """Epochs whose checkpoints are kept; the last one when none is named.

    Raises:
        UsageError: an epoch beyond the end.
    """
    beyond = [epoch for epoch in keep if epoch > rounds]
    if beyond:
        raise UsageError(
            f"option 'keep' names epoch {beyond[0]}, expected epochs from 0 to {rounds}",
            field="keep",
            hint="raise --epochs or drop it from --keep",
        )
    return frozenset(keep or (rounds,))


def recorded_epochs(text: str, rounds: int, *, experts: bool) -> range:
    """Epochs that trajectories record, from `--keep-epochs`.

    Args:
        text: all, none or FIRST-LAST, both included; auto is all when experts were asked for, else none.
        rounds: epochs of the training; 0 is the initialisation.
        experts: whether experts were asked for.

    Raises:
        UsageError: anything else, or epochs beyond the end, naming both sides.
    """
    word = text.strip().lower()
    if word == "auto":
        word = "all" if experts else "none"
    if word in {"all", "none"}:
        return range(rounds + 1 if word == "all" else 0)
    match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", word)
    if match is None:
        raise UsageError(
            f"option 'keep_epochs' is '{word[:80]}', expected auto, all, none or FIRST-LAST such as 0-{rounds}",
            field="keep_epochs",
        )
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise UsageError(
            f"option 'keep_epochs' is '{word}', its first epoch {first} comes after its last {last}",
            field="keep_epochs",
        )
    if last > rounds:
        raise UsageError(
            f"option 'keep_epochs' ends at epoch {last}, the training at epoch {rounds}",
            field="keep_epochs",
            hint="raise --epochs, or keep fewer",
        )
    return range(first, last + 1)


def choose_epochs(config: TrainTeacherConfig, rounds: int) -> tuple[frozenset[int], range]:
    """Epochs whose checkpoints are kept, and epochs that trajectories record.

    Raises:
        UsageError: everything that is wrong with the options taken together.
    """
    problems: list[str] = []
    kept: frozenset[int] = frozenset()
    recorded = range(0)
    try:
        kept = kept_epochs(config.keep, rounds)
        if config.experts:
            kept |= {rounds}  # what an expert says of images is what it says at its end
    except UsageError as error:
        problems += error.problems
    try:
        recorded = recorded_epochs(config.keep_epochs, rounds, experts=config.experts is not None)
    except UsageError as error:
        problems += error.problems
    if config.experts == 0 and config.scores is None:
        problems.append("option 'experts' is 0 and there are no --scores, expected experts to train or scores to make")
    if problems:
        raise UsageError.collect(problems)
    return kept, recorded


def course(recipe: Recipe) -> str:
    """How a net was trained, in one line: accuracies are compared by it."""
    name = "smooth sgd" if recipe.schedule == "ast" else recipe.optimizer
    rate = f"{name} at {recipe.lr:g} {recipe.schedule}"
    return f"{recipe.rounds} epochs of {rate}, batch {recipe.batch}, {recipe.augment} augmentation"


class Recorder:
    """The trajectory of one expert, as it grows."""

    def __init__(self, epochs: range) -> None:
        self.epochs = epochs
        self.rows: list[Tensor] = []
        """(P,) float32 of each epoch so far, copies."""
        self.buffers: list[Tensor] = []
        """(B,) float32, as many."""

    def take(self, net: nn.Module, epoch: int) -> None:
        """Record the net as it is after an epoch, if that one is kept."""
        if epoch in self.epochs:
            self.rows.append(flatten(net))
            self.buffers.append(flatten_buffers(net))


class Store:
    """Where recorded trajectories wait until the bundle is saved; use it with `with`, and `release` it at the end."""

    def __init__(self, total: int, *, hold: bool = False) -> None:
        """For `total` bytes in all; `hold` leaves them to who holds them also after an error, to keep the state."""
        self._hold = hold
        self._stack = contextlib.ExitStack()
        self._spool = self._stack.enter_context(Spool()) if total > SPOOL_BYTES else None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hold:
            self.release()
        self._stack.close()

    def release(self) -> None:
        """Take nothing more; what was stored stays readable as long as someone holds it."""
        if self._spool is not None:
            self._spool.release()

    def section(self, expert: int, recorder: Recorder, **about: Any) -> NewSection:
        """The section of a finished expert, whose rows the recorder gives up; `about` as `trajectory_section` takes."""
        rows = self._tensor(recorder.rows)
        buffers = self._tensor(recorder.buffers) if recorder.buffers[0].numel() else None
        return trajectory_section(expert, recorder.epochs, rows, buffers, **about)

    def tensor(self, dtype: str, shape: tuple[int, ...], parts: Iterator[bytes]) -> RawTensor | FileTensor:
        """A tensor from its bytes in order, put away."""
        if self._spool is None:
            return RawTensor(dtype, shape, b"".join(parts))
        return self._spool.tensor(dtype, shape, parts)

    def _tensor(self, rows: list[Tensor]) -> RawTensor | FileTensor:
        return self.tensor("F32", (len(rows), rows[0].numel()), _drain(rows))


def _drain(rows: list[Tensor]) -> Iterator[bytes]:
    """Bytes of each row, which is then forgotten."""
    rows.reverse()
    while rows:
        yield RawTensor.of(rows.pop()).data
