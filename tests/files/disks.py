"""Two disks for tests: one that fails at a chosen call, and one that remembers every call, to lose power at any."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from ddlabel.filesystem import FileSystem

BLOCK = 512
"""What a disk writes at once: a write that is cut off is cut off at a multiple of it."""
ABSENT = None


class FaultCounter(FileSystem):
    """Fails at call number `at`, and at all later ones when persistent; writes are short.

    A close that fails has closed, as on Linux. Names can always be removed, and nothing waits for a real disk.
    """

    def __init__(self, at: int, code: int, *, persistent: bool, longest: int = 1500) -> None:
        self.at, self.code, self.persistent = at, code, persistent
        self.calls: list[str] = []
        self.failed: list[str] = []
        self._longest = longest

    def _count(self, name: str) -> None:
        self.calls.append(name)
        number = len(self.calls)
        if number == self.at or (self.persistent and number > self.at):
            self.failed.append(name)
            raise OSError(self.code, os.strerror(self.code))

    def create(self, path: str, mode: int) -> int:
        self._count("create")
        return super().create(path, mode)

    def open_lock(self, path: str) -> int:
        self._count("open_lock")
        return super().open_lock(path)

    def lock(self, descriptor: int, wait: bool) -> None:
        self._count("lock")
        super().lock(descriptor, wait)

    def write(self, descriptor: int, data: memoryview) -> int:
        self._count("write")
        return super().write(descriptor, data[: self._longest])

    def fsync(self, descriptor: int) -> None:
        self._count("fsync")

    def size(self, descriptor: int) -> int:
        self._count("size")
        return super().size(descriptor)

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._count("close")

    def mode(self, path: str) -> int:
        self._count("mode")
        return super().mode(path)

    def chmod(self, descriptor: int, mode: int) -> None:
        self._count("chmod")
        super().chmod(descriptor, mode)

    def link(self, source: str, target: str) -> None:
        self._count("link")
        super().link(source, target)

    def replace(self, source: str, target: str) -> None:
        self._count("replace")
        super().replace(source, target)

    def names(self, folder: str) -> list[str]:
        self._count("names")
        return super().names(folder)

    def sync_directory(self, path: str) -> None:
        self._count("sync_directory")


class NoLinks(FileSystem):
    """A file system without hard links."""

    def link(self, source: str, target: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@dataclass
class _File:
    """What is known of a file: all that was written, and how much of it is on the disk for sure."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0

    def after_power_loss(self) -> Iterator[bytes]:
        """What may be there: what was not synced whole, dropped, zeroed, or torn at any block, with and without the
        length that it should have had."""
        whole, synced = bytes(self.data), self.synced
        yield whole
        first = synced - synced % BLOCK
        for end in {synced, *range(first, len(whole), BLOCK)}:
            kept = whole[: max(end, synced)]
            yield kept
            yield kept.ljust(len(whole), b"\0")
        for start in range(first, len(whole), BLOCK):  # a block in the middle that did not get there
            if start >= synced:
                yield whole[:start] + bytes(len(whole[start : start + BLOCK])) + whole[start + BLOCK :]


class Disk:
    """What a disk holds, and what it may hold after the power is lost."""

    def __init__(self) -> None:
        self.files: list[_File] = []
        self.names: dict[str, list[int | None]] = {}
        """Values a name may have: the one on the disk, and later ones that were not synced."""

    def add(self, path: str, data: bytes) -> None:
        """A file that was there before."""
        self.files.append(_File(bytearray(data), len(data)))
        self.names[path] = [len(self.files) - 1]

    def apply(self, call: tuple) -> None:
        kind, *arguments = call
        if kind == "create":
            path, number = arguments
            assert number == len(self.files)
            self.files.append(_File())
            self._set(path, number)
        elif kind == "write":
            self.files[arguments[0]].data += arguments[1]
        elif kind == "fsync":
            file = self.files[arguments[0]]
            file.synced = len(file.data)
        elif kind == "link":
            source, target = arguments
            self._set(target, self.now(source))
        elif kind == "replace":
            source, target = arguments
            self._set(target, self.now(source))
            self._set(source, ABSENT)
        elif kind == "unlink":
            self._set(arguments[0], ABSENT)
        elif kind == "sync_directory":
            for path, values in self.names.items():
                if os.path.dirname(path) == arguments[0]:
                    self.names[path] = values[-1:]

    def _set(self, path: str, number: int | None) -> None:
        self.names.setdefault(path, [ABSENT]).append(number)

    def now(self, path: str) -> int | None:
        """The file of a name, for everybody as long as there is power."""
        return self.names.get(path, [ABSENT])[-1]

    def after_kill(self) -> dict[str, bytes]:
        """All files, when only the process dies."""
        found = {path: self.now(path) for path in self.names}
        return {path: bytes(self.files[number].data) for path, number in found.items() if number is not ABSENT}

    def after_power_loss(self, path: str) -> set[bytes | None]:
        """What one name may hold: each of its entries may be lost, alone or with others, in any order."""
        found: set[bytes | None] = set()
        for number in self.names.get(path, [ABSENT]):
            found |= {None} if number is ABSENT else set(self.files[number].after_power_loss())
        return found


class OpLog(FileSystem):
    """Does everything, and remembers what changes a disk."""

    def __init__(self, *, links: bool = True, longest: int = 1500) -> None:
        self.calls: list[tuple] = []
        self._numbers = itertools.count()
        self._open: dict[int, int] = {}
        self._links, self._longest = links, longest

    def replay(self, before: dict[str, bytes]) -> Iterator[Disk]:
        """The disk before the first call, after it, after the second, and so on; files before have numbers first."""
        for count in range(len(self.calls) + 1):
            disk = Disk()
            for path, data in before.items():
                disk.add(path, data)
            for kind, *arguments in self.calls[:count]:
                shifted = [argument + len(before) if isinstance(argument, int) else argument for argument in arguments]
                disk.apply((kind, *shifted))
            yield disk

    def create(self, path: str, mode: int) -> int:
        descriptor = super().create(path, mode)
        self._open[descriptor] = next(self._numbers)
        self.calls.append(("create", path, self._open[descriptor]))
        return descriptor

    def open_lock(self, path: str) -> int:
        there = os.path.lexists(path)
        descriptor = super().open_lock(path)
        self._open[descriptor] = next(self._numbers)
        if there:
            raise AssertionError("the log knows no locks that were there before")
        self.calls.append(("create", path, self._open[descriptor]))
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        count = super().write(descriptor, data[: self._longest])
        self.calls.append(("write", self._open[descriptor], bytes(data[:count])))
        return count

    def fsync(self, descriptor: int) -> None:
        self.calls.append(("fsync", self._open[descriptor]))

    def link(self, source: str, target: str) -> None:
        if not self._links:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        super().link(source, target)
        self.calls.append(("link", source, target))

    def replace(self, source: str, target: str) -> None:
        super().replace(source, target)
        self.calls.append(("replace", source, target))

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.calls.append(("unlink", path))

    def sync_directory(self, path: str) -> None:
        self.calls.append(("sync_directory", path))
