"""Output folders: whole or not at all, nobody's files lost, nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddlabel import folders, fsio
from ddlabel.errors import ResourceError, UsageError
from ddlabel.folders import atomic_folder, check_folder


def write(path: Path, text: bytes = b"new", **options: object) -> None:
    with atomic_folder(str(path), durable=False, **options) as folder:
        for name in ("a/one", "a/two", "b/one", "top"):
            with folder.file(name) as file:
                file.write(text)


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


WHOLE = dict.fromkeys(("a/one", "a/two", "b/one", "top"), b"new")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """Also in the place of an empty one; nothing else is left."""
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        write(tmp_path / name)
        assert WHOLE == tree(tmp_path / name)

    assert ["empty", "new"] == sorted(os.listdir(tmp_path))


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    """Without force, and with it where it is somebody else's."""
    write(tmp_path / "x", b"old")

    def refuse(path: str) -> None:
        raise UsageError(f"{path} is not ours")

    with pytest.raises(UsageError, match="exists, expected a new name; use --force"):
        write(tmp_path / "x")
    with pytest.raises(UsageError, match="not ours"):
        write(tmp_path / "x", force=True, may_replace=refuse)
    assert {b"old"} == set(tree(tmp_path / "x").values())
    assert ["x"] == os.listdir(tmp_path)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_force_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    """All of it, whether or not the system can exchange two names; no file of the old one stays."""
    if not can_exchange:
        monkeypatch.setattr(folders, "_exchange", lambda left, right: False)
    write(tmp_path / "x", b"old")
    (tmp_path / "x" / "more").write_bytes(b"old")
    write(tmp_path / "x", force=True)

    assert WHOLE == tree(tmp_path / "x")
    assert ["x"] == os.listdir(tmp_path)


class Full(fsio.FileSystem):
    """Fails at one call."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(self, path: str, mode: int) -> int:
        self._count()
        return super().create(path, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        self._count()
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._count()

    def replace(self, source: str, target: str) -> None:
        self._count()
        super().replace(source, target)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_full_disk_at_any_call_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    """Every create, write and rename in turn; the old folder or the new one, whole, and no other name."""
    if not can_exchange:
        monkeypatch.setattr(folders, "_exchange", lambda left, right: False)
    write(tmp_path / "x", b"old")
    old, failed = tree(tmp_path / "x"), 0
    for at in range(1, 30):
        disk = Full(at)
        monkeypatch.setattr(fsio, "current", disk)
        try:
            write(tmp_path / "x", force=True)
        except ResourceError as error:
            assert "No space left" in str(error)
            failed += 1
            assert old == tree(tmp_path / "x")
        else:
            assert WHOLE == tree(tmp_path / "x")
            break
        assert ["x"] == os.listdir(tmp_path)

    assert failed == (8 if can_exchange else 10)


CHILD = """
import os, signal, sys
from ddlabel.folders import atomic_folder
with atomic_folder(sys.argv[1]) as folder:
    with folder.file("a/one") as file:
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_one_temporary_that_the_next_write_removes(tmp_path: Path) -> None:
    """Nothing has the name; a temporary of a running process is not touched."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "x")], check=False)
    (left,) = os.listdir(tmp_path)
    running = f".x.{os.getpid()}-0123.tmp"
    (tmp_path / running).mkdir()
    (tmp_path / ".y.1-0123.tmp").mkdir()

    assert -9 == done.returncode
    assert left.startswith(".x.")
    assert left.endswith(".tmp")
    write(tmp_path / "x")
    assert sorted([running, ".y.1-0123.tmp", "x"]) == sorted(os.listdir(tmp_path))
    assert WHOLE == tree(tmp_path / "x")


def test_stale_links_and_files_are_not_followed(tmp_path: Path) -> None:
    """A link that looks like a temporary does not lead to somebody's folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"mine")
    (tmp_path / ".x.999999999-0.tmp").symlink_to(tmp_path / "mine")
    write(tmp_path / "x")

    assert {"file": b"mine"} == tree(tmp_path / "mine")


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "", ".", "..", "a/b/c", ".hidden", "a\0b", "a\nb", "x" * 300]
)
def test_only_plain_names_go_in(tmp_path: Path, name: str) -> None:
    """A mistake in a format cannot write anywhere else."""
    with (
        pytest.raises(ValueError, match="no plain file name"),
        atomic_folder(str(tmp_path / "x")) as folder,
        folder.file(name),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_work_are_refused_before_any_work(tmp_path: Path) -> None:
    """Files, missing folders around, roots, and folders with an input inside."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.ddset").write_bytes(b"")
    inside = str(tmp_path / "in" / "x.ddset")
    for path, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "no" / "x", "does not exist"),
        (Path("/"), "cannot be a folder"),
        (tmp_path / "in", "holds an input"),
    ):
        with pytest.raises(UsageError, match=words):
            check_folder(str(path), force=True, inputs=[inside])
    with pytest.raises(UsageError, match="cannot be a folder"):
        check_folder("", force=False)


def test_files_are_synced_and_then_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the rename, and the folder around after it."""
    calls = []

    class Seen(fsio.FileSystem):
        def fsync(self, descriptor: int) -> None:
            calls.append("file")

        def sync_directory(self, path: str) -> None:
            calls.append("around" if Path(path) == tmp_path else "folder")

        def replace(self, source: str, target: str) -> None:
            calls.append("rename")
            super().replace(source, target)

    monkeypatch.setattr(fsio, "current", Seen())
    with atomic_folder(str(tmp_path / "x")) as folder:
        for name in ("a/one", "top"):
            with folder.file(name) as file:
                file.write(b"1")

    assert ["file", "file", "folder", "folder", "rename", "around"] == calls
