"""`OUTPUT.partial`: the state of a stage that is not finished, kept beside its output until that is written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import (
    BundleError,
    DdlabelError,
    DivergedError,
    InterruptedRunError,
    ResourceError,
    UsageError,
)
from ..fsio import exclusive, is_stream, remove_output
from ._options import Output, Resume, Talk
from ._report import say

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..stages._partial import Progress

__all__ = ["SUFFIX", "PartialFile", "alone", "check_partial", "partial_name"]

SUFFIX = ".partial"
LONGEST = 200
"""Bytes of the name of a state from which its lock has a short name of its own."""


def partial_name(output: str | None) -> str | None:
    """The file that keeps the state of a run; None where the output is a pipe, a device or nothing."""
    if output is None or is_stream(output) or os.path.isdir(output):
        return None
    return output + SUFFIX


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
    if os.path.exists(name) and not os.path.isfile(name):
        what = "a folder" if os.path.isdir(name) else "no regular file"
        raise UsageError(f"'{name}' is {what}, expected to keep the state of the run there", field="output")
    if os.path.lexists(_lock_name(name)):
        with alone(name):
            pass
    if not os.path.lexists(name) or resume.resume:
        return
    kind = _kind_of(name)
    if kind not in {None, "partial"}:
        raise UsageError(
            f"'{name}' is a finished bundle of kind '{kind}', expected to keep the state of the run there",
            field="output",
            hint="move it elsewhere, or give another output",
        )
    if not output.force:
        raise UsageError(
            f"'{name}' holds the state of an unfinished run",
            field="resume",
            hint="use --resume to continue it, or --force to start over",
        )


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Keep other runs from the same state, and so from the same output, while inside.

    Raises:
        ResourceError: another run is at work.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(_lock_name(name)))
        except ResourceError as error:
            if "another run" not in error.message:
                raise
            raise ResourceError(
                f"another run keeps its state in '{name}' and will write '{name.removesuffix(SUFFIX)}'",
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


def _open_state(name: str) -> Bundle:
    """The bundle in a file; the advice is the same whatever is wrong with it."""
    from ..bundle import Bundle

    try:
        return Bundle.open(name)
    except BundleError as error:
        raise BundleError(error.message, field=error.field, hint="use --force to start over") from error


class PartialFile:
    """Connects the progress of one stage with its file."""

    def __init__(self, name: str, output: Output, resume: Resume, talk: Talk) -> None:
        from ..stages._partial import Progress

        self.name = name
        self._durable = not output.no_fsync
        self._quiet = talk.quiet
        found = os.path.lexists(name)
        if resume.resume and not found and not self._quiet:
            say(f"no {name}, starting from the beginning")
        self.progress: Progress = Progress(
            saved=_open_state(name) if resume.resume and found else None,
            save=self._save,
            discard=self.remove,
            free_bytes=shutil.disk_usage(os.path.dirname(os.path.realpath(name))).free,
        )

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Whatever stops the run inside, its newest state is kept first, and the user told where."""
        try:
            yield
        except BaseException as error:
            note = self._keep()
            kept = self.progress.kept is not None
            if note and isinstance(error, InterruptedRunError):
                hint = "run the same command with --resume to continue" if kept else None
                raise InterruptedRunError(error.signum, f"{error.message}; {note}", hint=hint) from error
            if note and not self._quiet:
                advice = "--force starts over" if isinstance(error, DivergedError) else "--resume continues"
                say(f"{note}; {advice}" if kept else note)
            raise

    def remove(self) -> None:
        """Take the file away, if there is one."""
        remove_output(self.name)

    def _save(self, bundle: Bundle) -> None:
        bundle.save(self.name, force=True, durable=self._durable)

    def _keep(self) -> str | None:
        failed = ""
        try:
            self.progress.keep()
        except InterruptedRunError:
            raise
        except (DdlabelError, MemoryError) as error:
            failed = f"the newest state could not be kept ({error or 'out of memory'})"
        if self.progress.kept is None:
            return failed or None
        done, total, unit = self.progress.kept
        return f"{failed}{failed and '; '}the state after {done} of {total} {unit} is in {self.name}"
