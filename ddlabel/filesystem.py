"""The system calls behind every file that is written, and the words for their failures."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from .errors import ResourceError

try:
    import fcntl
except ImportError:  # a system without these locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileSystem", "again", "lock_file", "os_errors", "same_file"]

ATTEMPTS = 1000
"""How often a call is repeated that signals interrupt."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}

P = ParamSpec("P")
T = TypeVar("T")


class FileSystem:
    """The system calls that a write needs, one method each."""

    def create(self, path: str, mode: int) -> int:
        """Create a file that must not exist; the umask applies."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def open_existing(self, path: str) -> int:
        """Open a device or FIFO for writing, or connect to a socket."""
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            return connection.detach()

    def open_lock(self, path: str) -> int:
        """Open a file that is only locked, created where it is missing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def lock(self, descriptor: int, wait: bool) -> None:
        """Lock a file, which nothing does on a system without locks; fails when another has it and we do not wait."""
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data; returns how much."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until the data is on the disk."""
        os.fsync(descriptor)

    def size(self, descriptor: int) -> int:
        """Bytes of an open file."""
        return os.fstat(descriptor).st_size

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def mode(self, path: str) -> int:
        """Permissions of a file."""
        return stat.S_IMODE(os.stat(path).st_mode)

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

    def names(self, folder: str) -> list[str]:
        """The names in a folder."""
        return os.listdir(folder)

    def sync_directory(self, path: str) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def again(call: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """A system call, repeated when a signal interrupts it."""
    for _attempt in range(ATTEMPTS):
        with contextlib.suppress(InterruptedError):
            return call(*arguments, **keywords)
    raise OSError(errno.EINTR, f"interrupted {ATTEMPTS} times")


def lock_file(system: FileSystem, path: str, wait: bool) -> int:
    """A descriptor of the locked file of that name, which is made where it is missing.

    File systems without locks keep nobody out.

    Raises:
        ResourceError: another process has it, and we do not wait.
        OSError: it cannot be made.
    """
    while True:
        descriptor = again(system.open_lock, path)
        try:
            again(system.lock, descriptor, wait)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # the one who was inside removed it meanwhile
        except BlockingIOError:
            _let_go(system, descriptor)
            raise ResourceError(f"{path}: held by another run", field="output") from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            _let_go(system, descriptor)
            raise
        _let_go(system, descriptor)


def same_file(first: str, second: str) -> bool:
    """Whether two names are of one file."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


@contextlib.contextmanager
def os_errors(shown: str) -> Iterator[None]:
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


def _let_go(system: FileSystem, descriptor: int) -> None:
    """Close a file that nothing was written to."""
    with contextlib.suppress(OSError):
        system.close(descriptor)
