"""Opening what is read: files, pipes and stdin, all so that they can be read at random."""

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

__all__ = ["open_input", "scratch", "stdin_stream"]


class _Worded(io.FileIO):
    """A file whose failures to read are worded."""

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """As of `FileIO`.

        Raises:
            ResourceError: the disk failed.
        """
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise ResourceError(f"{self.name}: cannot be read ({error.strerror})") from error

    def readall(self) -> bytes:
        """As of `FileIO`.

        Raises:
            ResourceError: the disk failed.
        """
        try:
            return super().readall()
        except OSError as error:
            raise ResourceError(f"{self.name}: cannot be read ({error.strerror})") from error


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a bundle for reading at random; `-` is stdin, spooled to an unnamed file when it is a pipe.

    Raises:
        UsageError: stdin is a terminal.
        BundleError: no such file, or a folder.
        ResourceError: the file may not be read; reading from what is returned raises it too.
    """
    name = os.fspath(path)
    if name == "-":
        return _open_stdin()
    try:
        file = cast("BinaryIO", io.BufferedReader(_Worded(name)))
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
    with os_errors("temporary file"):
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
        while chunk := _piece(stream):
            with os_errors("temporary file"):
                spooled.write(chunk)
        with os_errors("temporary file"):
            spooled.seek(0)
    except BaseException:
        spooled.close()
        raise
    return spooled


def _piece(stream: BinaryIO) -> bytes:
    try:
        return stream.read(2**20)
    except OSError as error:
        raise ResourceError(f"{stream.name}: cannot be read ({error.strerror})") from error
