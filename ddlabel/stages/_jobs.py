"""An evaluation as a list of jobs: which process does which, what came of them, and what a state holds of it.

A job trains one student, and what comes of it depends on the plan and on the job alone: not on the jobs before it, on
the process that does it or on how often it was stopped. Rows and comparisons are put together afterwards.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle, NewSection
from ..errors import BundleError
from ..events import Event, OnEvent, ignore
from ..team import ALONE, Team
from ..training import TrainState
from ._partial import SHARE, Progress, Saved, state_section
from ._students import Moment, Watch

__all__ = ["Job", "Jobs", "Outcome", "share"]

PAUSE_S = 5.0
"""Seconds of training between two copies of a student that is being trained."""
OUTCOMES, STUDENT, BUNDLES = "state.jobs", "state.student", "state.bundles"
_PARTS = ("net", "optimizer", "average")


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    record: Mapping[str, Any]
    """What JSON can say."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One student, or something else that takes its time."""

    key: str
    """Unlike that of any other job of the evaluation."""
    cost: float
    """How long it takes, in any unit that all jobs share."""
    work: Callable[[Watch], Outcome]
    group: str = ""
    """Jobs of one group share what is dear to make, and so are done by one process."""


OnDone = Callable[[Job, Mapping[str, Outcome]], None]
"""Told of each job that this process finished, with the outcomes of all that it finished so far."""


class Jobs:
    """Does the jobs of an evaluation, or the share of one process, each of them once.

    Args:
        progress: told of everything that is finished.
        saved: the state of an earlier run.
        team: who shares the work.
        on_event: told of what is continued.

    Raises:
        BundleError: a state that makes no sense.
    """

    def __init__(
        self,
        progress: Progress | None = None,
        saved: Saved | None = None,
        team: Team = ALONE,
        on_event: OnEvent = ignore,
    ) -> None:
        self._progress, self._team, self._on_event = progress or Progress(), team, on_event
        self._finished: dict[str, Outcome] = {}
        self._bundles: dict[str, bytes] = {}
        self._running: tuple[str, Moment] | None = None
        self._total = 0
        self._coming = 0
        self._next = 0.0
        if saved is not None:
            try:
                self._read(saved)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BundleError(
                    f"{saved.bundle.name}: its sections do not say which jobs are done ({error})",
                    field=OUTCOMES,
                    hint="use --force to start over",
                ) from error

    def announce(self, count: int) -> None:
        """So many jobs, of all processes, will be given to `run`: for those who ask how far we are before that."""
        self._coming += count

    def run(self, jobs: Sequence[Job], on_done: OnDone = lambda _job, _finished: None) -> dict[str, Outcome]:
        """The outcomes of jobs by key, those of other processes too; every process must call it with the same jobs.

        Raises:
            ResourceError: another process is gone.
        """
        own = share(jobs, self._team)
        self._total += len(own)
        self._coming = max(0, self._coming - len(jobs))
        for job in own:
            if job.key not in self._finished:
                self._finished[job.key] = job.work(self._watch(job.key))
                self._tell(None)
                on_done(job, self._finished)
        if self._team.size > 1:
            self._progress.rest()
        done = {job.key: self._finished[job.key] for job in own}
        records = self._team.exchange_json({key: outcome.record for key, outcome in done.items()})
        named = {f"{key}:{name}": value for key, outcome in done.items() for name, value in outcome.tensors.items()}
        tensors = self._team.exchange_tensors(named)
        outcomes: dict[str, Outcome] = {}
        for rank, theirs in enumerate(records):
            outcomes |= _outcomes(theirs, tensors[rank])
        return {job.key: outcomes[job.key] for job in jobs}

    def bundle(self, name: str, make: Callable[[], Bundle]) -> Bundle:
        """A bundle that is made once: by the process that leads, which gives it to the others and keeps it."""
        if self._team.size == 1 and not self._progress.keeps and name not in self._bundles:
            return make()
        self._total += self._team.leads
        if self._team.leads and name not in self._bundles:
            stream = io.BytesIO()
            make().write_to(stream)
            self._bundles[name] = stream.getvalue()
            self._tell(None)
        data = self._team.exchange(self._bundles.get(name, b""))[0]
        return Bundle.open(io.BytesIO(data))

    def _watch(self, key: str) -> Watch:
        self._next = time.monotonic() + PAUSE_S
        start = self._running[1] if self._running is not None and self._running[0] == key else None
        if start is not None:
            message = f"continuing a student after epoch {start.state.epoch}"
            self._on_event(Event(phase="resuming", message=message))

        def offer(take: Callable[[], Moment]) -> None:
            started = time.monotonic()
            if self._progress.keeps and started >= self._next:
                self._tell((key, take()))
                now = time.monotonic()
                self._next = now + max(PAUSE_S, (now - started) / SHARE)

        return Watch(start, offer)

    def _tell(self, running: tuple[str, Moment] | None) -> None:
        finished, bundles = dict(self._finished), dict(self._bundles)
        done = len(finished) + len(bundles)
        total = max(done, self._total + -(-self._coming // self._team.size))
        self._progress.reached(done, total, lambda: _sections(finished, bundles, running))

    def _read(self, saved: Saved) -> None:
        bundle = saved.bundle
        if bundle.has(OUTCOMES):
            records = bundle.section(OUTCOMES).parameters["records"]
            self._finished = _outcomes(dict(records), saved.state(OUTCOMES))
        if bundle.has(BUNDLES):
            self._bundles = {name: value.numpy().tobytes() for name, value in saved.state(BUNDLES).items()}
        if bundle.has(STUDENT):
            self._running = _running(saved)


def share(jobs: Sequence[Job], team: Team) -> list[Job]:
    """The jobs of one process, in the order given: the dearest groups first, each to whoever has the least so far."""
    if team.size == 1:
        return list(jobs)
    costs: dict[str, float] = {}
    for job in jobs:
        name = job.group or job.key
        costs[name] = costs.get(name, 0.0) + job.cost
    loads = [0.0] * team.size
    ranks: dict[str, int] = {}
    for name in sorted(costs, key=lambda name: -costs[name]):
        ranks[name] = loads.index(min(loads))
        loads[ranks[name]] += costs[name]
    return [job for job in jobs if ranks[job.group or job.key] == team.rank]


def _outcomes(records: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Outcome]:
    """Outcomes of their records by key, and of their tensors by `<key>:<name>`."""
    apart: dict[str, dict[str, Tensor]] = {key: {} for key in records}
    for place, value in tensors.items():
        key, _, name = place.rpartition(":")
        apart[key][name] = value
    return {key: Outcome(dict(record), apart[key]) for key, record in records.items()}


def _sections(
    finished: Mapping[str, Outcome], bundles: Mapping[str, bytes], running: tuple[str, Moment] | None
) -> list[NewSection]:
    sections = []
    if finished:
        records = {key: outcome.record for key, outcome in finished.items()}
        tensors = {f"{key}:{name}": value for key, item in finished.items() for name, value in item.tensors.items()}
        sections.append(state_section(OUTCOMES, tensors, records=records))
    if bundles:
        stored = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in bundles.items()}
        sections.append(state_section(BUNDLES, stored))
    if running is not None:
        key, moment = running
        state = moment.state
        tensors = {f"{part}:{name}": value for part in _PARTS for name, value in getattr(state, part).items()}
        said = {"epoch": state.epoch, "loss": state.loss, "scores": list(moment.scores), "samples": moment.samples}
        sections.append(state_section(STUDENT, tensors, job=key, **said))
    return sections


def _running(saved: Saved) -> tuple[str, Moment]:
    said = saved.bundle.section(STUDENT).parameters
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for place, value in saved.state(STUDENT).items():
        part, _, name = place.partition(":")
        parts[part][name] = value
    state = TrainState(int(said["epoch"]), float(said["loss"]), *(parts[part] for part in _PARTS))
    return str(said["job"]), Moment(state, tuple(map(float, said["scores"])), int(said["samples"]))
