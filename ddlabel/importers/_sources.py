"""The files that an import reads: each read once, whole, within a size, with the digest of the bytes that were used."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BundleError, ResourceError
from ..manifest import printable

__all__ = ["MAX_FILE_BYTES", "Sources", "shown"]

MAX_FILE_BYTES = 8 * 2**30
MAX_ENTRIES = 2_000_000
"""Files that a folder may hold."""
LISTED = 256
"""Sources that the history lists one by one."""


class Sources:
    """Files and folders given on the command line."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = tuple(Path(path) for path in paths)
        self._read: dict[str, tuple[int, str]] = {}

    @property
    def only(self) -> Path:
        """The one path that was given.

        Raises:
            BundleError: there are several.
        """
        if len(self.paths) != 1:
            raise BundleError(f"{len(self.paths)} files given, this format takes one")
        return self.paths[0]

    def read(self, path: Path, *, limit: int = MAX_FILE_BYTES, name: str | None = None) -> bytearray:
        """All bytes of a file, entered into the list of sources.

        Args:
            path: of a plain file; through a symbolic link too.
            limit: most bytes that it may have.
            name: how the history calls it; None is the file's own name.

        Raises:
            BundleError: no such file, no plain file, or too large.
            ResourceError: it may not be read.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise BundleError(f"{shown(path)}: not a plain file")
                if status.st_size > limit:
                    raise BundleError(f"{shown(path)}: {status.st_size} bytes, expected at most {limit}")
                data = bytearray(file.read(limit + 1))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(f"{shown(path)}: no such file", hint="check the path") from error
        except IsADirectoryError as error:
            raise BundleError(f"{shown(path)}: a folder, expected a plain file") from error
        except OSError as error:
            raise ResourceError(f"{shown(path)}: cannot be read ({error.strerror})") from error
        if len(data) > limit:
            raise BundleError(f"{shown(path)}: grew while it was read, expected at most {limit} bytes")
        self._read[name or shown(path)] = (len(data), hashlib.sha256(data).hexdigest())
        return data

    @property
    def entered(self) -> Mapping[str, tuple[int, str]]:
        """Size in bytes and sha256 of every file that was read, by its name in the history."""
        return self._read

    def begins(self, path: Path, count: int = 8) -> bytes:
        """The first bytes of a file; none where it cannot be read."""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                return file.read(count) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
        except OSError:
            return b""

    def record(self) -> list[dict[str, Any]]:
        """What the history keeps: name, size and sha256 of every file; beyond 256 files one digest of all of them."""
        entries: list[dict[str, Any]] = [
            {"name": name, "bytes": size, "sha256": digest} for name, (size, digest) in self._read.items()
        ]
        if len(entries) <= LISTED:
            return entries
        lines = "".join(
            f"{entry['sha256']} {entry['name']}\n" for entry in sorted(entries, key=lambda each: str(each["name"]))
        )
        whole = hashlib.sha256(lines.encode()).hexdigest()
        total = sum(size for size, _digest in self._read.values())
        return [{"name": "all files", "files": len(entries), "bytes": total, "sha256": whole}]


def shown(path: str | os.PathLike[str]) -> str:
    """The name of a file without its folder, fit for a terminal and a manifest."""
    name = os.path.basename(os.fspath(path).rstrip("/")) or os.fspath(path)
    return printable(os.fsencode(name).decode(errors="backslashreplace"))[:255]


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by the bytes of the names, without hidden entries.

    Raises:
        BundleError: it is no folder, or holds too much.
        ResourceError: it may not be read.
    """
    try:
        found = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{shown(folder)}: no such folder", hint="check the path") from error
    except OSError as error:
        raise ResourceError(f"{shown(folder)}: cannot be read ({error.strerror})") from error
    _check_count(found, folder)
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _check_count(found: Iterable[object], folder: Path) -> None:
    count = sum(1 for _entry in found)
    if count > MAX_ENTRIES:
        raise BundleError(f"{shown(folder)}: {count} entries, expected at most {MAX_ENTRIES}")
