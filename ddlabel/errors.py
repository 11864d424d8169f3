"""Everything that can go wrong, and the exit code it maps to.

    DdlabelError
    ├── UsageError        2   unknown name, bad option value, options that do not combine
    ├── BundleError       3   not a bundle, newer version, missing tensor, digest mismatch
    ├── DataError         4   missing folder, unreadable image, empty class
    ├── DivergedError     5   a loss, label or image became non-finite
    ├── ResourceError     6   out of memory, disk full, cannot write
    ├── CheckFailedError  7   a check the user asked for failed
    └── InterruptedRunError   130 / 143 / 129   stopped by a signal, at a safe point

Any other exception is a bug: traceback, exit 1.

A message has three parts: what is wrong with the offending value, what was expected, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar

__all__ = [
    "BundleError",
    "CheckFailedError",
    "DataError",
    "DdlabelError",
    "DivergedError",
    "InterruptedRunError",
    "ResourceError",
    "UsageError",
    "suggest",
]


class DdlabelError(Exception):
    """Base of every expected failure.

    Args:
        message: what is wrong and what was expected; lower-case start, no full stop.
        field: the option, tensor or manifest key concerned, for `--json` readers.
        hint: what to do about it; printed after the message.
    """

    exit_code: ClassVar[int] = 1
    reported: bool = False
    """Whether the document that the command printed with `--json` tells of it."""

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}; {hint}")
        self.message = message
        self.field = field
        self.hint = hint


class UsageError(DdlabelError):
    """The command line, or a configuration built in Python, asks for something that cannot be done."""

    exit_code = 2

    def __init__(
        self, message: str, *, field: str | None = None, hint: str | None = None, problems: Sequence[str] = ()
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.problems: tuple[str, ...] = tuple(problems) or (str(self),)

    @classmethod
    def collect(cls, problems: Sequence[str]) -> UsageError:
        """One error for several problems, so that a user sees all of them at once."""
        return cls("; ".join(problems), problems=problems)


class BundleError(DdlabelError):
    """A bundle is damaged, foreign, too new, or lacks what a stage needs."""

    exit_code = 3


class DataError(DdlabelError):
    """A data set is missing, unreadable or inconsistent."""

    exit_code = 4


class DivergedError(DdlabelError):
    """Numbers became non-finite; the state before is kept."""

    exit_code = 5


class ResourceError(DdlabelError):
    """Memory, disk space or permissions do not suffice."""

    exit_code = 6


class CheckFailedError(DdlabelError):
    """A check that the user asked for (`inspect --verify`) did not pass."""

    exit_code = 7
    reported = True


class InterruptedRunError(DdlabelError):
    """A signal asked the run to stop, and it stopped at a safe point."""

    def __init__(self, signum: int, message: str = "interrupted", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.signum = signum


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an "unknown name" message: the nearest known name and the list of all.

    >>> suggest("cifr10", ["cifar10", "digits"])
    "; did you mean 'cifar10'? (known: cifar10, digits)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    question = f"; did you mean '{near[0]}'?" if near else ""
    return f"{question} (known: {', '.join(names) or 'none'})"
