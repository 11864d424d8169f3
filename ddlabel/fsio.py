"""Files: the only place where bundles are opened, written, synced and renamed.

All system calls go through `current`, a `FileSystem`, so that tests can make any of them fail. A write is atomic and
durable: a temporary file in the same folder, fsync, link or rename, fsync of the folder. A kill at any moment leaves
the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from .errors import ResourceError, UsageError
from .filesystem import FileSystem, again, lock_file, os_errors, same_file
from .inputs import at_random, open_input, scratch, stdin_stream
from .streams import is_stream, own_descriptor, refuse_terminal
from .temporaries import left_behind, temporary_name, temporary_prefix

__all__ = [
    "FileSystem", "OutputFile", "already_there", "at_random", "atomic_output", "check_output", "exclusive", "is_stream",
    "open_input", "remove_output", "scratch", "stdin_stream", "synced", "synced_names",
]  # fmt: skip

CHUNK_BYTES = 16 * 2**20
"""Largest single write, so that a signal is noticed between two of them."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}

current = FileSystem()
"""What all functions of this module call; tests swap it for one that fails."""

T = TypeVar("T")


class OutputFile:
    """Something bytes can be written to, whole and in order."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self.path = path
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all bytes; short writes are continued, interrupted ones repeated, full pipes waited for."""
        view = memoryview(data).cast("B")
        while len(view):
            try:
                count = again(current.write, self._descriptor, view[:CHUNK_BYTES])
            except BlockingIOError:
                select.select([], [self._descriptor], [])
                continue
            if not count:
                raise OSError(errno.EIO, "the system wrote nothing")
            view = view[count:]
            self.written += count


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str], *, force: bool = False, durable: bool = True) -> Iterator[OutputFile]:
    """Write a file that appears whole or not at all.

    Args:
        path: where it shall appear; `-` is stdout. A symbolic link is followed; a FIFO, device or socket is written
            to, never replaced.
        force: replace an existing file. Without it a file that appears meanwhile is never lost.
        durable: wait for the disk (fsync of file and folder).

    Raises:
        UsageError: the file exists, or stdout is a terminal.
        ResourceError: the disk is full, the folder is not writable, or the device failed.
    """
    target = os.fspath(path)
    descriptor = 1 if target == "-" else own_descriptor(target)
    if descriptor is not None:
        yield from _stream_to(descriptor, "<stdout>" if target == "-" else target)
        return
    resolved = os.path.realpath(target)
    with os_errors(target):
        _refuse_impossible(resolved, target)
        special = is_stream(resolved)
        writer = _special_output(resolved, target) if special else _file_output(resolved, target, force, durable)
        with writer as output:
            yield output


def check_output(path: str, *, force: bool, inputs: Sequence[str] = ()) -> None:
    """Refuse an output that cannot work, before any computation.

    Raises:
        UsageError: it exists (without `force`), is a folder, is one of the inputs, or its folder does not exist.
        ResourceError: its folder is not writable.
    """
    descriptor = 1 if path == "-" else own_descriptor(path)
    if descriptor is not None:
        refuse_terminal(descriptor)
        return
    resolved = os.path.realpath(path)
    folder = os.path.dirname(resolved)
    _refuse_impossible(resolved, path)
    if not os.path.isdir(folder):
        raise UsageError(f"output '{path}': folder '{folder}' does not exist", field="output", hint="create it first")
    same = [name for name in inputs if name != "-" and os.path.realpath(name) == resolved]
    if same:
        raise UsageError(f"output '{path}' is also an input, expected another name", field="output")
    if is_stream(resolved):
        return
    if os.path.exists(resolved) and not force:
        raise already_there(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError(f"output '{path}': folder '{folder}' is not writable", field="output")


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Keep other processes out of what a file stands for while inside; the file is removed at the end.

    The lock dies with the process, so that one left by a kill is in nobody's way. File systems and systems without
    locks keep nobody out.

    Raises:
        ResourceError: another process is inside, or the file cannot be made.
    """
    with _held(path, wait=False):
        yield


def remove_output(path: str) -> None:
    """Remove a file that `atomic_output` wrote, if there is one, and what killed writers of it left.

    Raises:
        ResourceError: it cannot be removed.
    """
    _remove_stale(*os.path.split(os.path.realpath(path)))
    try:
        again(current.unlink, path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ResourceError(f"{path}: cannot be removed ({error.strerror})") from error


def _stream_to(descriptor: int, shown: str) -> Iterator[OutputFile]:
    refuse_terminal(descriptor)
    with os_errors(shown):
        if descriptor == 1:
            sys.stdout.flush()
            descriptor = sys.stdout.fileno()
        yield OutputFile(descriptor, shown)


@contextlib.contextmanager
def _special_output(resolved: str, shown: str) -> Iterator[OutputFile]:
    descriptor = again(current.open_existing, resolved)
    try:
        yield OutputFile(descriptor, shown)
    finally:
        _close(descriptor)


@contextlib.contextmanager
def _file_output(resolved: str, shown: str, force: bool, durable: bool) -> Iterator[OutputFile]:
    if os.path.exists(resolved) and not force:
        raise already_there(shown)
    folder, name = os.path.split(resolved)
    _remove_stale(folder, name)
    temporary = os.path.join(folder, temporary_name(name))
    try:
        descriptor = again(current.create, temporary, 0o666)
        try:
            if force:
                _keep_mode(descriptor, resolved)
            output = OutputFile(descriptor, shown)
            yield output
            if durable:
                synced(current.fsync, descriptor)
            if again(current.size, descriptor) != output.written:
                raise OSError(errno.EIO, "file size differs from the bytes written")
        finally:
            _close(descriptor)
        _publish(temporary, resolved, shown, force)
    except BaseException:
        _remove(temporary)
        raise
    if durable:
        synced_names(folder, shown)


def _keep_mode(descriptor: int, replaced: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        again(current.chmod, descriptor, again(current.mode, replaced))


def _publish(temporary: str, target: str, shown: str, force: bool) -> None:
    if force:
        again(current.replace, temporary, target)
        return
    try:
        again(current.link, temporary, target)
    except FileExistsError:
        if not same_file(temporary, target):  # a link that was made and reported as interrupted is ours
            raise already_there(shown) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim_and_rename(temporary, target, shown)
        return
    _remove(temporary)


def _claim_and_rename(temporary: str, target: str, shown: str) -> None:
    """On file systems without hard links: rename while nobody else of us may.

    The claim is a file of its own, so that the name is never seen empty, not even after a kill.
    """
    folder, name = os.path.split(target)
    with _held(os.path.join(folder, f"{temporary_prefix(name)}claim"), wait=True):
        if os.path.lexists(target):
            raise already_there(shown)
        again(current.replace, temporary, target)


def synced(call: Callable[[T], None], what: T) -> None:
    """Wait for the disk, where the file system can."""
    try:
        again(call, what)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def synced_names(folder: str, shown: str) -> None:
    """Wait for the disk after an output got its name.

    Raises:
        ResourceError: the disk failed; the output is there all the same, whole.
    """
    try:
        synced(current.sync_directory, folder)
    except OSError as error:
        raise ResourceError(
            f"{shown}: written whole, but not certain to outlast a power failure ({error.strerror or error})",
            field="output",
            hint="check the disk, then copy the output or write it again with --force",
        ) from error


def _close(descriptor: int) -> None:
    """Close a descriptor; an interrupted close has closed it."""
    with contextlib.suppress(InterruptedError):
        current.close(descriptor)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        again(current.unlink, path)


@contextlib.contextmanager
def _held(path: str, *, wait: bool) -> Iterator[None]:
    """Lock a file while inside, made where it is missing and removed at the end."""
    with os_errors(path):
        descriptor = lock_file(current, path, wait)
    try:
        yield
    finally:
        _remove(path)
        with contextlib.suppress(OSError):  # nothing was written to it
            current.close(descriptor)


def _remove_stale(folder: str, name: str) -> None:
    """Remove temporaries that dead processes left for the same output."""
    with contextlib.suppress(OSError):
        for path in left_behind(current, folder, name):
            _remove(path)


def _refuse_impossible(resolved: str, shown: str) -> None:
    if os.path.isdir(resolved):
        raise UsageError(f"output '{shown}' is a folder, expected a file name", field="output")
    if os.path.islink(resolved):
        raise UsageError(f"output '{shown}' is a symbolic link that leads in circles", field="output")


def already_there(path: str) -> UsageError:
    """What to say where an output exists and nobody said `--force`."""
    return UsageError(f"output '{path}' exists, expected a new name", field="output", hint="use --force to overwrite")
