"""Names of files that are no files: stdout and other open descriptors, pipes, devices, sockets."""

from __future__ import annotations

import os
import sys

from .errors import ResourceError, UsageError

__all__ = ["is_stdout", "is_stream", "own_descriptor", "refuse_terminal"]

LONGEST_CHAIN = 40
"""Symbolic links in a row, as the system allows them."""


def is_stream(path: str) -> bool:
    """Whether a name stands for stdout, another open descriptor, a pipe, a device or a socket."""
    if path == "-" or own_descriptor(path) is not None:
        return True
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def is_stdout(path: str | None) -> bool:
    """Whether what is written there goes where results are printed: `-`, or a name such as /dev/stdout."""
    return path is not None and (path == "-" or own_descriptor(path) == 1)


def own_descriptor(path: str) -> int | None:
    """The number of the open descriptor of ours that a name such as /dev/stdout or /dev/fd/3 stands for."""
    folders = ("/dev/fd", os.path.realpath("/proc/self/fd"))
    for _link in range(LONGEST_CHAIN):
        folder, name = os.path.split(os.path.abspath(path))
        if name.isascii() and name.isdecimal() and os.path.realpath(folder) in folders:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def refuse_terminal(descriptor: int) -> None:
    """Bundles are not for eyes.

    Raises:
        UsageError: the descriptor is a terminal.
        ResourceError: stdout is closed.
    """
    if descriptor == 1 and sys.stdout is None:
        raise ResourceError("stdout is closed, expected a pipe or a file", field="output")
    if sys.stdout.isatty() if descriptor == 1 else os.isatty(descriptor):
        what = "stdout" if descriptor == 1 else f"descriptor {descriptor}"
        raise UsageError(f"{what} is a terminal, expected a pipe or a file", hint="use -o FILE or a pipe")
