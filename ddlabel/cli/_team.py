"""Several processes on one command line: which commands take them, and who says what goes wrong."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from ..errors import DdlabelError, InterruptedRunError, UsageError
from ..team import PeerGoneError, Team, joined, place
from ._others import Others
from ._processes import launched, orphaned
from ._report import say

__all__ = ["SPREAD", "Told", "check_command", "check_inputs", "joining", "only_first_speaks", "speaker"]

SPREAD = ("train-teacher", "distill", "augment-labels", "evaluate")
"""Commands whose work several processes share."""


class Told(DdlabelError):  # noqa: N818 - it wraps one
    """The failure of a process of which the user has been told."""

    def __init__(self, error: DdlabelError) -> None:
        super().__init__(error.message)
        self.code = 128 + error.signum if isinstance(error, InterruptedRunError) else error.exit_code


def check_command(name: str) -> None:
    """Refuse a command that every process would do as a whole.

    Raises:
        UsageError: naming those that share their work.
    """
    size = place()[1]
    if size > 1 and name not in SPREAD:
        raise UsageError(
            f"'{name}' is for one process, this is one of {size}; processes share the work of {', '.join(SPREAD)}",
            field="command",
            hint="run it without torchrun",
        )


def check_inputs(files: tuple[str, ...]) -> None:
    """Refuse what only one process can read.

    Raises:
        UsageError: an input is stdin.
    """
    if place()[1] > 1 and "-" in files:
        raise UsageError(
            f"an input is '-', expected a file: {place()[1]} processes cannot read the same stdin", field="input"
        )


def speaker() -> str:
    """What a process puts before its own errors; nothing for the first or only one."""
    with contextlib.suppress(UsageError):
        rank, size = place()
        return f"process {rank} of {size}: " if rank else ""
    return ""


def only_first_speaks(error: DdlabelError) -> bool:
    """Whether this is another process, and the user learns of the error from the first, or from another one.

    What is wrong with a command line every process of a machine finds before any of them begins; the first of each
    machine says so, since another one may lack a folder.
    """
    if not speaker():
        return False
    if isinstance(error, UsageError):
        return os.environ.get("LOCAL_RANK", "0") != "0"
    return isinstance(error, Told | InterruptedRunError)


@contextlib.contextmanager
def joining(others: Others | None = None) -> Iterator[Team]:
    """The team of this process; what fails in it is told once, by the first process that it happens to.

    Args:
        others: those that this process has started.

    Raises:
        Told: in place of an error of another process than the first, when it is said.
    """
    with joined(None if others is None else others.listener) as team:
        try:
            yield team
        except DdlabelError as failure:
            error = _explained(failure, team)
            if team.leads:
                team.tell(_reason(error))
                raise error from failure
            try:
                _say_unless_told(team, error)
            except InterruptedRunError:  # torchrun stops those that a failure of another leaves
                _say_unless_told(team, error)
            raise Told(error) from error


def _say_unless_told(team: Team, error: DdlabelError) -> None:
    """What failed in another process than the first, when that one has not said so."""
    from ..manifest import printable

    if launched() and isinstance(error, InterruptedRunError | PeerGoneError):
        said = not orphaned()  # the first process stopped this one, or is about to: it says why
    else:
        said = team.told() == _reason(error)
    if not said:
        for line in error.problems if isinstance(error, UsageError) else (str(error),):
            say(f"{speaker()}error: {printable(line)}")


def _explained(error: DdlabelError, team: Team) -> DdlabelError:
    """Why a process of several may have been told to stop."""
    if team.size == 1 or not isinstance(error, InterruptedRunError) or error.signum != signal.SIGTERM:
        return error
    if launched() and team.leads:
        return error
    torchrun = "stopped by SIGTERM, which torchrun sends when it is stopped or another process has died"
    why = "stopped, for the first process is gone" if launched() else torchrun
    return InterruptedRunError(error.signum, error.message.replace("interrupted", why, 1), hint=error.hint)


def _reason(error: DdlabelError) -> str:
    """Equal for failures of two processes that a user need hear of once."""
    return "interrupted" if isinstance(error, InterruptedRunError) else str(error)
