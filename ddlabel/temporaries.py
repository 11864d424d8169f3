"""Names of temporary files and folders: whose they are, and which of them were left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator

from .filesystem import FileSystem, again

__all__ = ["left_behind", "temporary_name", "temporary_prefix"]

NAME_BYTES = 150
"""Of a file's name, as much as the names of its temporaries repeat."""
OLD_S = 7 * 24 * 3600
"""Seconds after which a temporary of another machine or container is nobody's."""


def temporary_prefix(name: str) -> str:
    """What the names of the temporaries of a file begin with."""
    return f".{os.fsdecode(os.fsencode(name)[:NAME_BYTES])}."


def temporary_name(name: str) -> str:
    """A new name for a temporary of a file: `.NAME.PID-HOST-RANDOM.tmp`."""
    return f"{temporary_prefix(name)}{os.getpid()}-{_host()}-{secrets.token_hex(6)}.tmp"


def left_behind(system: FileSystem, folder: str, name: str) -> Iterator[str]:
    """Temporaries of a file that nobody writes to any more.

    Only those of this machine and container say by their number whether their process lives. Others, which share the
    folder, and those of before a restart are old when the folder was changed a week after they were: both times are
    of the clock of the machine that has the disk.

    Yields:
        Their paths; of files and folders.

    Raises:
        OSError: the folder cannot be read.
    """
    prefix, ours = temporary_prefix(name), _host()
    for entry in again(system.names, folder):
        if not (entry.startswith(prefix) and entry.endswith(".tmp")):
            continue
        owner, _dash, rest = entry[len(prefix) :].partition("-")
        if not owner.isdecimal():
            continue
        path = os.path.join(folder, entry)
        if not _alive(int(owner)) if rest.startswith(f"{ours}-") else _is_old(path, folder):
            yield path


def _host() -> str:
    """What tells this machine since its last start, and this container, from others that number processes too."""
    parts = [os.fsencode(os.uname().nodename)]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            parts.append(file.read())
        parts.append(os.readlink(b"/proc/self/ns/pid"))
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:12]


def _is_old(path: str, folder: str) -> bool:
    try:
        return os.lstat(path).st_mtime + OLD_S < os.stat(folder or ".").st_mtime
    except OSError:
        return False


def _alive(pid: int) -> bool:
    """Whether there is a process of that number here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
