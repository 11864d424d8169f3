"""Runs mutations and holds each to the promise: refused by an error of ours, or accepted; in little time and memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ddlabel.errors import DdlabelError

MOST_SECONDS = 1.0
"""Of processor time for one mutation."""
MOST_BYTES = 64 * 2**20
"""Of memory that one mutation may add at its peak."""
REFUSED = {2, 3}
"""Exit codes of a refusal. 2 is for a decoder asked directly with impossible options; of a file it becomes 3."""


@dataclass(frozen=True)
class Target:
    """One reader under attack."""

    name: str
    make: Callable[[random.Random], Any]
    """Draws one case."""
    check: Callable[[Any], None]
    """Reads it: returns where it is accepted, and is what it claims to be."""


@dataclass
class Report:
    """What happened to the mutations of one target."""

    name: str
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    """Of the slowest mutation."""
    peak: int = 0
    """Bytes added by the largest mutation."""
    findings: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Mutations tried."""
        return self.accepted + self.refused + len(self.findings)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.count} mutations, {self.refused} refused, {self.accepted} accepted, "
            f"slowest {1000 * self.seconds:.0f} ms, largest {self.peak / 2**20:.1f} MiB, {len(self.findings)} findings"
        )


def fuzz(target: Target, count: int, seed: int = 0, start: int = 0) -> Report:
    """Mutations `start` to `start + count`; each depends on target, seed and its number alone."""
    report = Report(target.name)
    with _peak_memory() as peak_of, warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(start, start + count):
            _one(target, f"{seed}/{target.name}/{index}", report, peak_of)
    return report


def _one(target: Target, path: str, report: Report, peak_of: Callable[[], int]) -> None:
    case = target.make(random.Random(path))
    peak_of()  # forgets the making of the case
    before, started = peak_of(), time.process_time()
    try:
        target.check(case)
        outcome = "accepted"
    except DdlabelError as error:
        outcome = "refused" if error.exit_code in REFUSED and str(error) else f"exit {error.exit_code}: {error}"
    except Exception:  # noqa: BLE001  any other exception is what is looked for
        outcome = traceback.format_exc(limit=-4)
    seconds, peak = time.process_time() - started, peak_of() - before
    report.seconds, report.peak = max(report.seconds, seconds), max(report.peak, peak)
    if outcome in {"accepted", "refused"} and (seconds > MOST_SECONDS or peak > MOST_BYTES):
        outcome = f"{outcome} after {seconds:.2f} s and {peak / 2**20:.1f} MiB"
    if outcome == "accepted":
        report.accepted += 1
    elif outcome == "refused":
        report.refused += 1
    else:
        report.findings.append(f"{path}: {outcome}")


@contextlib.contextmanager
def _peak_memory() -> Iterator[Callable[[], int]]:
    """A function that gives the largest resident size since its last call, in bytes.

    Where the kernel cannot forget a peak, the largest size ever: growth is then seen beyond earlier peaks alone.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    try:
        forget = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        forget = -1

    def peak() -> int:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if forget >= 0:
            os.write(forget, b"5")
        return largest

    try:
        peak()
        yield peak
    finally:
        if forget >= 0:
            os.close(forget)
