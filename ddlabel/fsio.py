"""Files: the only place where bundles are opened, written, synced and renamed.

All system calls go through `current`, a `FileSystem`, so that tests can make any of them fail. A write is atomic and
durable: a temporary file in the same folder, fsync, link or rename, fsync of the folder. A kill at any moment leaves
the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from .errors import BundleError, ResourceError, UsageError

try:
    import fcntl
except ImportError:  # a system without these locks
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FileSystem",
    "OutputFile",
    "atomic_output",
    "check_output",
    "exclusive",
    "open_input",
    "remove_output",
    "scratch",
    "stdin_stream",
]

CHUNK_BYTES = 16 * 2**20
"""Largest single write, so that a signal is noticed between two of them."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


class FileSystem:
    """The system calls that a write needs, one method each."""

    def create(self, path: str, mode: int) -> int:
        """Create a file that must not exist; the umask applies."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def open_existing(self, path: str) -> int:
        """Open a device, FIFO or socket for writing."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def open_lock(self, path: str) -> int:
        """Open a file that is only locked, created where it is missing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data; returns how much."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until the data is on the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def chmod(self, descriptor: int, mode: int) -> None:
        """Set permissions, untouched by the umask."""
        os.fchmod(descriptor, mode)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; fails when the name is taken."""
        os.link(source, target)

    def replace(self, source: str, target: str) -> None:
        """Rename over whatever has the name."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


current = FileSystem()
"""What all functions of this module call; tests swap it for one that fails."""


class OutputFile:
    """Something bytes can be written to, whole and in order."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self.path = path
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all bytes; short writes are continued and interrupted ones repeated."""
        view = memoryview(data).cast("B")
        while len(view):
            try:
                count = current.write(self._descriptor, view[:CHUNK_BYTES])
            except InterruptedError:
                continue
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
    if target == "-":
        yield from _stream_to_stdout()
        return
    resolved = os.path.realpath(target)
    with _os_errors(target):
        special = os.path.exists(resolved) and not os.path.isfile(resolved)
        if special and os.path.isdir(resolved):
            raise UsageError(f"output '{target}' is a folder, expected a file name", field="output")
        writer = _special_output(resolved, target) if special else _file_output(resolved, target, force, durable)
        with writer as output:
            yield output


def check_output(path: str, *, force: bool, inputs: Sequence[str] = ()) -> None:
    """Refuse an output that cannot work, before any computation.

    Raises:
        UsageError: it exists (without `force`), is a folder, is one of the inputs, or its folder does not exist.
        ResourceError: its folder is not writable.
    """
    if path == "-":
        if sys.stdout.isatty():
            raise UsageError("stdout is a terminal, expected a pipe or a file", hint="use -o FILE or a pipe")
        return
    resolved = os.path.realpath(path)
    folder = os.path.dirname(resolved)
    if os.path.isdir(resolved):
        raise UsageError(f"output '{path}' is a folder, expected a file name", field="output")
    if not os.path.isdir(folder):
        raise UsageError(f"output '{path}': folder '{folder}' does not exist", field="output", hint="create it first")
    same = [name for name in inputs if name != "-" and os.path.realpath(name) == resolved]
    if same:
        raise UsageError(f"output '{path}' is also an input, expected another name", field="output")
    if os.path.exists(resolved) and not os.path.isfile(resolved):
        return
    if os.path.exists(resolved) and not force:
        raise _exists(path)
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
    with _os_errors(path):
        descriptor = _lock(path)
    try:
        yield
    finally:
        _remove(path)
        current.close(descriptor)


def remove_output(path: str) -> None:
    """Remove a file that `atomic_output` wrote, if there is one, and what killed writers of it left.

    Raises:
        ResourceError: it cannot be removed.
    """
    _remove_stale(*os.path.split(os.path.realpath(path)))
    try:
        current.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ResourceError(f"{path}: cannot be removed ({error.strerror})") from error


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a bundle for reading at random; `-` is stdin, spooled to an unnamed file when it is a pipe.

    Raises:
        UsageError: stdin is a terminal.
        BundleError: no such file, or a folder.
        ResourceError: the file may not be read.
    """
    name = os.fspath(path)
    if name == "-":
        return _open_stdin()
    try:
        file = open(name, "rb")  # noqa: SIM115 - the bundle owns it
    except FileNotFoundError as error:
        raise BundleError(f"{name}: no such file", hint="check the path") from error
    except IsADirectoryError as error:
        raise BundleError(f"{name}: is a folder, expected a .ddset file") from error
    except OSError as error:
        raise ResourceError(f"{name}: cannot be read ({error.strerror})") from error
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    with file:
        return _spool(file)


def scratch() -> BinaryIO:
    """An unnamed temporary file, gone when closed."""
    with _os_errors("temporary file"):
        return tempfile.TemporaryFile(prefix="ddlabel-")


def stdin_stream() -> BinaryIO:
    """Stdin as bytes.

    Raises:
        UsageError: it is a terminal.
        BundleError: it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise BundleError("<stdin>: closed, expected a bundle")
    if sys.stdin.isatty():
        raise UsageError("stdin is a terminal, expected a bundle", hint="give a FILE, or pipe one in")
    return sys.stdin.buffer


def _open_stdin() -> BinaryIO:
    stream = stdin_stream()
    try:
        regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        regular = False
    if regular:
        return open(os.dup(stream.fileno()), "rb")
    return _spool(stream)


def _spool(stream: BinaryIO) -> BinaryIO:
    spooled = scratch()
    try:
        with _os_errors("temporary file"):
            while chunk := stream.read(2**20):
                spooled.write(chunk)
            spooled.seek(0)
    except BaseException:
        spooled.close()
        raise
    return spooled


def _stream_to_stdout() -> Iterator[OutputFile]:
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal, expected a pipe or a file", hint="use -o FILE or a pipe")
    sys.stdout.flush()
    with _os_errors("<stdout>"):
        yield OutputFile(sys.stdout.fileno(), "<stdout>")


@contextlib.contextmanager
def _special_output(resolved: str, shown: str) -> Iterator[OutputFile]:
    descriptor = current.open_existing(resolved)
    try:
        yield OutputFile(descriptor, shown)
    finally:
        current.close(descriptor)


@contextlib.contextmanager
def _file_output(resolved: str, shown: str, force: bool, durable: bool) -> Iterator[OutputFile]:
    if os.path.exists(resolved) and not force:
        raise _exists(shown)
    folder, name = os.path.split(resolved)
    _remove_stale(folder, name)
    temporary = os.path.join(folder, f".{name[:150]}.{os.getpid()}-{secrets.token_hex(6)}.tmp")
    descriptor = current.create(temporary, 0o666)
    try:
        try:
            if force and os.path.exists(resolved):
                current.chmod(descriptor, stat.S_IMODE(os.stat(resolved).st_mode))
            output = OutputFile(descriptor, shown)
            yield output
            if durable:
                _retry_fsync(descriptor)
            if os.fstat(descriptor).st_size != output.written:
                raise OSError(errno.EIO, "file size differs from the bytes written")
        finally:
            current.close(descriptor)
        _publish(temporary, resolved, shown, force)
    except BaseException:
        _remove(temporary)
        raise
    if durable:
        current.sync_directory(folder)


def _publish(temporary: str, target: str, shown: str, force: bool) -> None:
    if force:
        current.replace(temporary, target)
        return
    try:
        current.link(temporary, target)
    except FileExistsError:
        raise _exists(shown) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim_and_rename(temporary, target, shown)
        return
    _remove(temporary)


def _claim_and_rename(temporary: str, target: str, shown: str) -> None:
    """On file systems without hard links: claim the name exclusively, then rename over the claim."""
    try:
        current.close(current.create(target, 0o666))
    except FileExistsError:
        raise _exists(shown) from None
    try:
        current.replace(temporary, target)
    except BaseException:
        _remove(target)
        raise


def _retry_fsync(descriptor: int) -> None:
    while True:
        try:
            current.fsync(descriptor)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
                raise
        return


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _lock(path: str) -> int:
    """A descriptor of the locked file of that name."""
    while True:
        descriptor = current.open_lock(path)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # the one who was inside removed it meanwhile
        except BlockingIOError:
            current.close(descriptor)
            raise ResourceError(f"{path}: held by another run", field="output") from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            current.close(descriptor)
            raise
        current.close(descriptor)


def _remove_stale(folder: str, name: str) -> None:
    """Remove temporaries that dead processes left for the same output."""
    prefix = f".{name[:150]}."
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            if not (entry.startswith(prefix) and entry.endswith(".tmp")):
                continue
            owner = entry[len(prefix) :].split("-")[0]
            if owner.isdecimal() and not _alive(int(owner)):
                _remove(os.path.join(folder, entry))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _os_errors(shown: str) -> Iterator[None]:
    """Word the failures of the operating system; a closed pipe is the caller's business."""
    try:
        yield
    except (BrokenPipeError, FileExistsError):
        raise
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space or write elsewhere",
            errno.EDQUOT: "free some of your quota or write elsewhere",
            errno.EFBIG: "raise the file size limit (ulimit -f) or write elsewhere",
        }.get(error.errno or 0, "check permissions and the disk, or write elsewhere")
        raise ResourceError(f"{shown}: cannot be written ({error.strerror or error})", hint=advice) from error


def _exists(path: str) -> UsageError:
    return UsageError(f"output '{path}' exists, expected a new name", field="output", hint="use --force to overwrite")
