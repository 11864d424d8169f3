"""`OUTPUT.partial`: the state of a stage that is not finished, kept beside its output until that is written.

Of several processes the first one keeps `OUTPUT.partial`, process R > 0 `OUTPUT.partial-R`: each its own share.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import (
    BundleError,
    DdlabelError,
    DivergedError,
    InterruptedRunError,
    ResourceError,
    UsageError,
)
from ..fsio import exclusive, is_stream, remove_output
from ..team import ALONE, Team, place
from ._options import Output, Resume, Talk
from ._report import say
from ._signals import Interrupts
from ._team import speaker

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..stages._partial import Progress

__all__ = ["SUFFIX", "PartialFile", "alone", "check_finished", "check_partial", "is_partial", "partial_name"]

SUFFIX = ".partial"
_ENDING = re.compile(re.escape(SUFFIX) + r"(-[0-9]+)?\Z")
LONGEST = 200
"""Bytes of the name of a state from which its lock has a short name of its own."""


def partial_name(output: str | None) -> str | None:
    """The file that keeps the state of a run; None where the output is a pipe, a device or nothing."""
    if output is None or is_stream(output) or os.path.isdir(output):
        return None
    return output + SUFFIX


def is_partial(name: str) -> bool:
    """Whether a file is named as the states of unfinished runs are."""
    return _ENDING.search(name) is not None


def _of_rank(name: str, rank: int) -> str:
    """The state of one of several processes, by the first one's."""
    return f"{name}-{rank}" if rank else name


def _others(name: str) -> dict[int, str]:
    """The states of all processes but the first that lie beside its own, by rank."""
    folder, base = os.path.split(name)
    found = {}
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(folder or ".")):
            rank = entry.removeprefix(f"{base}-")
            if rank != entry and rank.isascii() and rank.isdecimal() and str(int(rank)) == rank != "0":
                found[int(rank)] = os.path.join(folder, entry)
    return found


def check_partial(output: Output, resume: Resume) -> None:
    """Refuse a state in the way, and a wish to continue that cannot be granted.

    Raises:
        UsageError: there is a state and neither `--resume` nor `--force`; an output that keeps no state; something
            else than a state that `--force` would remove.
        ResourceError: another run has the same output.
    """
    name = partial_name(output.output)
    if name is None:
        if resume.resume and output.output is not None:
            raise UsageError(
                f"option 'resume' needs a file to continue, '{output.output}' keeps no state", field="resume"
            )
        return
    rank, size = place()
    others = _others(name)
    for each in (name, *others.values()):
        if os.path.exists(each) and not os.path.isfile(each):
            what = "a folder" if os.path.isdir(each) else "no regular file"
            raise UsageError(f"'{each}' is {what}, expected to keep the state of the run there", field="output")
    if rank == 0 and os.path.lexists(_lock_name(name)):
        with alone(name):
            pass
    found = [each for each in (name, *others.values()) if os.path.lexists(each)]
    if resume.resume:
        _check_size(others, size)
        return
    for each in found:
        kind = _kind_of(each)
        if kind not in {None, "partial"}:
            raise UsageError(
                f"'{each}' is a finished bundle of kind '{kind}', expected to keep the state of the run there",
                field="output",
                hint="move it elsewhere, or give another output",
            )
    if found and not output.force:
        raise UsageError(
            f"'{found[0]}' holds the state of an unfinished run",
            field="resume",
            hint="use --resume to continue it, or --force to start over",
        )


def check_finished(output: str, stage: str) -> None:
    """Refuse to continue what is finished, or what would overwrite something; other outputs are checked elsewhere.

    Raises:
        UsageError: there is an output beside a state, or a whole one of this stage without a state.
    """
    name = partial_name(output)
    if name is None or not os.path.exists(output):
        return
    states = [each for each in (name, *_others(name).values()) if os.path.lexists(each)]
    if states:
        raise UsageError(
            f"output '{output}' exists, and so does '{states[0]}', the state of an unfinished run",
            field="resume",
            hint="use --resume --force to continue that and overwrite the output, or remove the state if the output is "
            "its result",
        )
    if _stage_of(output) == stage:
        raise UsageError(
            f"output '{output}' is a whole result of '{stage}', and there is no '{name}' to continue: that run is "
            "finished",
            field="resume",
            hint="use --force to start over, or give another output",
        )


def _check_size(others: Mapping[int, str], size: int) -> None:
    """Refuse to continue without processes that have done a share."""
    last = max(others, default=0)
    if last >= size:
        raise UsageError(
            f"'{others[last]}' is the state of process {last} of a run of {last + 1} or more, this run has {size}",
            field="resume",
            hint="use as many --processes as it was started with, or --force to start over",
        )


@contextlib.contextmanager
def alone(name: str, team: Team = ALONE) -> Iterator[None]:
    """Keep other runs from the same state, and so from the same output, while inside.

    Args:
        name: of the first process's state; each locks its own.
        team: who works together.

    Raises:
        ResourceError: another run is at work.
    """
    own = _of_rank(name, team.rank)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(_lock_name(own)))
        except ResourceError as error:
            if "another run" not in error.message:
                raise
            raise ResourceError(
                f"another run keeps its state in '{own}' and will write '{name.removesuffix(SUFFIX)}'",
                field="output",
                hint="wait until it ends, or give another output",
            ) from None
        yield


def _lock_name(name: str) -> str:
    folder, base = os.path.split(name)
    if len(os.fsencode(base)) > LONGEST:
        base = hashlib.sha256(os.fsencode(base)).hexdigest()
    return os.path.join(folder, f".{base}.lock")


def _kind_of(name: str) -> str | None:
    """Of the bundle in a file; None where there is no whole bundle."""
    from ..bundle import Bundle

    try:
        return Bundle.open(name).kind
    except BundleError:
        return None


def _stage_of(name: str) -> Any:
    """That wrote the bundle in a file; None where there is no whole bundle."""
    from ..bundle import Bundle

    try:
        return Bundle.open(name).manifest.history[-1]["stage"]
    except DdlabelError:
        return None


def _open_state(name: str) -> Bundle:
    """The bundle in a file; the advice is the same whatever is wrong with it."""
    from ..bundle import Bundle

    try:
        return Bundle.open(name)
    except BundleError as error:
        raise BundleError(error.message, field=error.field, hint="use --force to start over") from error


class PartialFile:
    """Connects the progress of one stage with its file."""

    def __init__(self, name: str, output: Output, resume: Resume, talk: Talk, team: Team = ALONE) -> None:
        from ..stages._partial import Progress

        self._first = name
        self.name = _of_rank(name, team.rank)
        self._team = team
        self._durable = not output.no_fsync
        self._quiet = talk.quiet or not team.leads
        found = os.path.lexists(self.name)
        if resume.resume and not found and not self._quiet:
            say(f"no {name}, starting from the beginning")
        leading = not team.leads and resume.resume and os.path.lexists(name)
        self.progress: Progress = Progress(
            saved=_open_state(self.name) if resume.resume and found else None,
            leading=_open_state(name) if leading else None,
            save=self._save,
            discard=self._discard,
            free_bytes=shutil.disk_usage(os.path.dirname(os.path.realpath(name))).free,
            team=team,
        )

    @contextlib.contextmanager
    def keeping(self, interrupts: Interrupts) -> Iterator[None]:
        """Whatever stops the run inside, its newest state is kept first, and the user told where.

        A signal while that is written does not stop it; a second one does.
        """
        try:
            yield
        except BaseException as error:
            try:
                note, lost = self._keep(interrupts)
            except InterruptedRunError:  # a signal just before it was made to wait
                note, lost = self._keep(interrupts)
            if lost and not self._team.leads:  # of whose errors the user may learn from the first
                say(f"{speaker()}{note}")
            kept = self.progress.kept is not None
            if note and isinstance(error, InterruptedRunError):
                hint = "run the same command with --resume to continue" if kept else None
                raise InterruptedRunError(error.signum, f"{error.message}; {note}", hint=hint) from error
            if note and (not self._quiet or (lost and self._team.leads)):
                advice = "--force starts over" if isinstance(error, DivergedError) else "--resume continues"
                say(f"{note}; {advice}" if kept else note)
            raise

    def remove(self) -> None:
        """Take the file away, if there is one."""
        remove_output(self.name)

    def remove_all(self) -> None:
        """Take our state away, and as the first process those of all: the result is written."""
        self.remove()
        if self._team.leads:
            for name in _others(self._first).values():
                remove_output(name)

    def _discard(self) -> None:
        """Take the state of another run away, of which every process has its own; the first sees to those of no one."""
        self.remove()
        if self._team.leads:
            for rank, name in _others(self._first).items():
                if rank >= self._team.size:
                    remove_output(name)

    def _save(self, bundle: Bundle) -> None:
        bundle.save(self.name, force=True, durable=self._durable)

    def _keep(self, interrupts: Interrupts) -> tuple[str, bool]:
        """What to say of the newest state, and whether it is lost."""
        failed = ""
        try:
            with interrupts.finishing():
                self.progress.keep()
        except (DdlabelError, MemoryError) as error:
            failed = f"the newest state could not be kept ({str(error) or 'out of memory'})"
        if self.progress.kept is None:
            return failed, bool(failed)
        done, total, unit = self.progress.kept
        return f"{failed}{failed and '; '}the state after {done} of {total} {unit} is in {self.name}", bool(failed)
