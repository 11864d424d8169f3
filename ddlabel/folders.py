"""Folders that appear whole or not at all: written under a temporary name beside the target, synced, renamed.

A kill at any moment leaves the old folder or the new one, and at most a temporary folder that the next write of the
same name removes. Where the system cannot exchange two names in one step, a kill while an old folder is replaced may
leave neither; both are then whole under temporary names until that next write.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence

from . import fsio
from .errors import ResourceError, UsageError
from .filesystem import again, os_errors
from .fsio import OutputFile
from .temporaries import left_behind, temporary_name

__all__ = ["Check", "OutputFolder", "atomic_folder", "check_folder"]

Check = Callable[[str], None]
"""Raises where an existing folder, by the name that was given for it, must not be replaced."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class OutputFolder:
    """A folder that is being written; only plain names go in, one folder deep."""

    def __init__(self, root: str, shown: str, *, durable: bool) -> None:
        self._root, self._shown, self._durable = root, shown, durable
        self._folders: set[str] = set()

    def make(self, name: str) -> None:
        """Make a folder inside, if it is not there."""
        if name not in self._folders:
            with os_errors(self._shown):
                os.mkdir(os.path.join(self._root, _checked(name)))
            self._folders.add(name)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[OutputFile]:
        """Write a new file, `NAME` or `FOLDER/NAME`.

        Raises:
            ResourceError: the disk is full, or the device failed.
            ValueError: the name is no plain name.
        """
        folder, slash, last = name.rpartition("/")
        if slash:
            self.make(folder)
        path = os.path.join(self._root, folder, _checked(last))
        with os_errors(self._shown):
            descriptor = again(fsio.current.create, path, 0o666)
            try:
                yield OutputFile(descriptor, path)
                if self._durable:
                    fsio.synced(fsio.current.fsync, descriptor)
            finally:
                fsio.current.close(descriptor)

    def sync(self) -> None:
        """Wait until the names are on the disk."""
        for folder in (*sorted(self._folders), ""):
            fsio.synced(fsio.current.sync_directory, os.path.join(self._root, folder))


@contextlib.contextmanager
def atomic_folder(
    path: str, *, force: bool = False, may_replace: Check | None = None, durable: bool = True
) -> Iterator[OutputFolder]:
    """Write a folder that appears whole or not at all.

    Args:
        path: where it shall appear; an empty folder there is replaced.
        force: replace a folder that holds something, if `may_replace` does not object.
        may_replace: raises for folders that are somebody else's.
        durable: wait for the disk (fsync of every file and folder).

    Raises:
        UsageError: it exists and is not to be replaced.
        ResourceError: it cannot be written.
    """
    target = os.path.realpath(path)
    check_folder(path, force=force, may_replace=may_replace)
    parent, name = os.path.split(target)
    _remove_stale(parent, name)
    temporary = os.path.join(parent, temporary_name(name))
    try:
        with os_errors(path):
            os.mkdir(temporary)
            folder = OutputFolder(temporary, path, durable=durable)
            yield folder
            if durable:
                folder.sync()
            check_folder(path, force=force, may_replace=may_replace)  # what came meanwhile is not lost either
            _publish(temporary, target)
            if durable:
                fsio.synced_names(parent, path)
    finally:  # what is left under the temporary name: what was begun, or what was replaced
        shutil.rmtree(temporary, ignore_errors=True)


def check_folder(path: str, *, force: bool, may_replace: Check | None = None, inputs: Sequence[str] = ()) -> None:
    """Refuse an output folder that cannot work, before any computation.

    Raises:
        UsageError: it is a file or an input, holds something (without `force`, or of somebody else), or the folder
            around it does not exist.
        ResourceError: the folder around it is not writable, or what is there cannot be read.
    """
    target = os.path.realpath(path)
    parent = os.path.dirname(target)
    if not path or target == parent:
        raise UsageError(f"output '{path}' cannot be a folder to write", field="output", hint="name a new folder")
    if any(_is_inside(name, target) for name in inputs if name != "-"):
        raise UsageError(f"output '{path}' is or holds an input, expected another name", field="output")
    if os.path.lexists(target) and not os.path.isdir(target):
        raise UsageError(f"output '{path}' is a file, expected a new folder", field="output")
    if not os.path.isdir(parent):
        raise UsageError(f"output '{path}': folder '{parent}' does not exist", field="output", hint="create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ResourceError(f"output '{path}': folder '{parent}' is not writable", field="output")
    with os_errors(path):
        is_full = os.path.isdir(target) and bool(os.listdir(target))
    if is_full and not force:
        raise fsio.already_there(path)
    if is_full and may_replace is not None:
        may_replace(path)


def _publish(temporary: str, target: str) -> None:
    """Give the finished folder its name; what had the name before gets the temporary one."""
    if not os.path.isdir(target) or not os.listdir(target):
        fsio.current.replace(temporary, target)
        return
    if _exchange(temporary, target):
        return
    aside = f"{temporary[: -len('.tmp')]}-old.tmp"
    fsio.current.replace(target, aside)
    try:
        fsio.current.replace(temporary, target)
    except BaseException:
        fsio.current.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(left: str, right: str) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0)


def _remove_stale(parent: str, name: str) -> None:
    """Remove temporary folders that dead processes left for the same output."""
    with contextlib.suppress(OSError):
        for path in left_behind(fsio.current, parent, name):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_inside(name: str, folder: str) -> bool:
    path = os.path.realpath(name)
    return path == folder or path.startswith(folder + os.sep)


def _checked(name: str) -> str:
    """A name that cannot lead anywhere else."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' is no plain file name")
    return name
