"""Opening what is read: files, pipes and stdin, with words for what fails."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from .errors import BundleError, ResourceError, UsageError
from .filesystem import os_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["at_random", "open_input", "scratch", "stdin_stream"]


class _Worded(io.FileIO):
    """A file whose failures to read are worded."""

    def __init__(self, file: str | int, shown: str) -> None:
        super().__init__(file)
        self._shown = shown

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """As of `FileIO`.

        Raises:
            ResourceError: the disk failed.
        """
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise ResourceError(f"{self._shown}: cannot be read ({error.strerror})") from error

    def readall(self) -> bytes:
        """As of `FileIO`.

        Raises:
            ResourceError: the disk failed.
        """
        try:
            return super().readall()
        except OSError as error:
            raise ResourceError(f"{self._shown}: cannot be read ({error.strerror})") from error


class _Stream:
    """A stream of somebody else, whose failures to read are worded."""

    def __init__(self, stream: BinaryIO, shown: str) -> None:
        self._stream, self._shown = stream, shown

    def read(self, size: int = -1, /) -> bytes:
        """As of any stream.

        Raises:
            ResourceError: the device failed.
        """
        try:
            return self._stream.read(size)
        except OSError as error:
            raise ResourceError(f"{self._shown}: cannot be read ({error.strerror or error})") from error

    def fileno(self) -> int:
        """Its descriptor.

        Raises:
            OSError: it has none.
        """
        return self._stream.fileno()

    def tell(self) -> int:
        """Bytes before what is read next."""
        return self._stream.tell()

    def close(self) -> None:
        """Leave it open: it is not ours."""


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """Open what is read; `-` is stdin. Pipes and devices are streams, read once from their first byte on.

    Raises:
        UsageError: stdin is a terminal.
        BundleError: no such file, or a folder.
        ResourceError: the file may not be read; reading from what is returned raises it too.
    """
    name = os.fspath(path)
    if name == "-":
        return _open_stdin()
    try:
        return cast("BinaryIO", io.BufferedReader(_Worded(name, name)))
    except FileNotFoundError as error:
        raise BundleError(f"{name}: no such file", hint="check the path") from error
    except IsADirectoryError as error:
        raise BundleError(f"{name}: is a folder, expected a .ddset file") from error
    except OSError as error:
        raise ResourceError(f"{name}: cannot be read ({error.strerror})") from error


def at_random(stream: BinaryIO) -> bool:
    """Whether this is a plain file at its first byte, which can be read at any place."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode) and stream.tell() == 0
    except (OSError, ValueError):
        return False


def scratch() -> BinaryIO:
    """An unnamed temporary file, gone when closed."""
    with os_errors("temporary file"):
        return tempfile.TemporaryFile(prefix="ddlabel-")


def stdin_stream() -> BinaryIO:
    """Stdin as bytes; reading it raises `ResourceError` where that fails.

    Raises:
        UsageError: it is a terminal.
        BundleError: it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise BundleError("<stdin>: closed, expected a bundle")
    if sys.stdin.isatty():
        raise UsageError("stdin is a terminal, expected a bundle", hint="give a FILE, or pipe one in")
    return cast("BinaryIO", _Stream(sys.stdin.buffer, "<stdin>"))


def _open_stdin() -> BinaryIO:
    stream = stdin_stream()
    if at_random(stream):
        return cast("BinaryIO", io.BufferedReader(_Worded(os.dup(stream.fileno()), "<stdin>")))
    return stream
