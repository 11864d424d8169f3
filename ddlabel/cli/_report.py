"""What the user sees: progress and notes on stderr, results on stdout. Rich is imported when there is a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from ..events import Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Reporter", "print_json", "say", "terminal_width"]

PLAIN_INTERVAL_S = 10.0
"""Seconds between two progress lines when stderr is no terminal."""
PIPE_WIDTH = 100
"""Columns of a table that does not go to a terminal, so that its text does not depend on the machine."""


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(schema: str, document: Mapping[str, Any]) -> None:
    """The result as one JSON document on stdout: sorted keys, no NaN."""
    body = {"schema": f"ddlabel.{schema}", "version": 1, **document}
    print(json.dumps(body, sort_keys=True, allow_nan=False, indent=2, ensure_ascii=True), flush=True)


def terminal_width(stream: TextIO) -> int:
    """Columns to draw for: the terminal's, at least 40, or a fixed width in pipes."""
    if not stream.isatty():
        return PIPE_WIDTH
    try:
        return max(40, os.get_terminal_size(stream.fileno()).columns)
    except OSError:
        return PIPE_WIDTH


class Reporter:
    """Turns the events of a stage into a progress bar on a terminal, or into a line every ten seconds elsewhere."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._phase = ""
        self._phase_start = 0.0
        self._last_line = 0.0
        self._last_event: Event | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Reporter]:
        """Draw progress while inside."""
        if self.quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            yield self
            self._finish_phase()
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=False) as self._bar:
            yield self
        self._bar = None

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if event.message is not None:
            self._note(event.message)
        elif not self.quiet and event.total:
            (self._draw if self._bar else self._write)(event)

    def _note(self, message: str) -> None:
        if self.quiet:
            return
        if self._bar:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            say(message)

    def _draw(self, event: Event) -> None:
        bar = self._bar
        if bar is None:
            return
        if event.phase not in self._tasks:
            self._tasks[event.phase] = bar.add_task(event.phase, total=event.total, metrics="")
        bar.update(self._tasks[event.phase], completed=event.done, total=event.total, metrics=_metrics(event.metrics))

    def _write(self, event: Event) -> None:
        now = time.monotonic()
        if event.phase != self._phase:
            self._finish_phase()
            self._phase, self._phase_start, self._last_line = event.phase, now, now
        self._last_event = event
        if now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            elapsed = now - self._phase_start
            left = elapsed / event.done * (event.total - event.done) if event.done else 0.0
            numbers = _metrics(event.metrics)
            say(f"{event.phase}: {event.done}/{event.total}, {elapsed:.0f} s, about {left:.0f} s left{numbers}")

    def _finish_phase(self) -> None:
        """The last line of a phase carries its totals."""
        event = self._last_event
        if event is not None and not self.quiet and (self.verbose or time.monotonic() - self._phase_start > 1.0):
            elapsed = time.monotonic() - self._phase_start
            say(f"{event.phase}: {event.done}/{event.total} in {elapsed:.1f} s{_metrics(event.metrics)}")
        self._last_event = None


def _metrics(metrics: Mapping[str, float]) -> str:
    return "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
