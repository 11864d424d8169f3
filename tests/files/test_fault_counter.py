"""Every system call of a write fails in turn, for every reason a disk has: the old file or the new one, and no rubbish.

Call 1, 2, 3, ... fails until the operation gets through without, once (transient) or from there on (persistent).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ddlabel import fsio
from ddlabel.bundle import Bundle, NewSection, RawTensor, StageRecord
from ddlabel.errors import ResourceError

from .disks import FaultCounter

CODES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EINTR, errno.EFBIG]
MOST_CALLS = 100


def bundle(number: int) -> Bundle:
    """A state of a few kB that tells from others."""
    record = StageRecord("distill", {"number": number}, 0, [], {}, 1.0, 1.7e9, {"device": "cpu"})
    data = struct.pack("<f", number) * 1000
    section = NewSection("state.a", "state", {"state.a.x": RawTensor("F32", (1000,), data)})
    return Bundle.create("partial", None, record, [section])


@pytest.fixture(scope="module")
def bundles() -> tuple[Bundle, Bundle]:
    """Old and new."""
    return bundle(1), bundle(2)


@pytest.fixture(scope="module")
def contents(bundles: tuple[Bundle, Bundle], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Their files."""
    folder = tmp_path_factory.mktemp("contents")
    for name, made in zip("ab", bundles, strict=True):
        made.save(folder / name)
    return (folder / "a").read_bytes(), (folder / "b").read_bytes()


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def every_failure(
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[], object],
    operation: Callable[[], object],
    check: Callable[[FaultCounter, ResourceError | None], None],
    *,
    code: int,
    persistent: bool,
) -> list[str]:
    """Run an operation with call 1, 2, 3, ... failing; returns which calls failed, in their order."""
    failed: list[str] = []
    for at in range(1, MOST_CALLS):
        prepare()
        counter = FaultCounter(at, code, persistent=persistent)
        before = descriptors()
        error = None
        with monkeypatch.context() as patch:
            patch.setattr(fsio, "current", counter)
            try:
                operation()
            except ResourceError as caught:
                error = caught
        assert before == descriptors(), f"{at}: {counter.failed}"
        check(counter, error)
        if not counter.failed:
            assert error is None
            return failed
        failed += counter.failed[:1]
    pytest.fail("the operation never got through")


@pytest.mark.fault(96, 97, 98)
@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
@pytest.mark.parametrize("force", [False, True], ids=["new file", "replacing"])
@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
def test_a_bundle_is_saved_whole_or_not_at_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: tuple[Bundle, Bundle],
    contents: tuple[bytes, bytes],
    code: int,
    force: bool,
    persistent: bool,
) -> None:
    """Exit code 6 naming the file; an interrupted call is repeated, so that a single one is no failure."""
    path, (old, new) = tmp_path / "x.ddset", contents

    def prepare() -> None:
        path.unlink(missing_ok=True)
        if force:
            path.write_bytes(old)

    def check(counter: FaultCounter, error: ResourceError | None) -> None:
        found = path.read_bytes() if path.exists() else None
        assert found in ({old, new} if force else {None, new})
        assert [path] * path.exists() == list(tmp_path.iterdir()), counter.failed
        assert found == new or error is not None
        if error is not None:
            assert (6, True) == (error.exit_code, str(path) in str(error))
            assert persistent or code != errno.EINTR

    failed = every_failure(
        monkeypatch, prepare, lambda: bundles[1].save(path, force=force), check, code=code, persistent=persistent
    )

    publish = {True: "replace", False: "link"}[force]
    assert ["names", "create", *(["mode", "chmod"] * force), "write"] == failed[: 5 if force else 3]
    assert ["fsync", "size", "close", publish, "sync_directory"] == failed[-5:]


@pytest.mark.fault(96, 97)
@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
def test_states_of_a_run_are_replaced_and_removed_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: tuple[Bundle, Bundle],
    contents: tuple[bytes, bytes],
    persistent: bool,
) -> None:
    """State after state and its removal, under the lock of the run: a whole state until there is none."""
    path, (old, new) = tmp_path / "x.ddset.partial", contents

    def operation() -> None:
        with fsio.exclusive(str(tmp_path / ".x.lock")):
            for made in bundles:
                made.save(path, force=True)
            fsio.remove_output(str(path))

    def check(counter: FaultCounter, error: ResourceError | None) -> None:
        found = path.read_bytes() if path.exists() else None
        assert found in {None, old, new}
        left = [tmp_path / ".x.lock"] * ("lock" in counter.failed[:1])  # it may be another's
        assert [*left, *[path] * path.exists()] == sorted(tmp_path.iterdir()), counter.failed
        saved = counter.calls.count("sync_directory")
        if error is not None and saved:
            assert found is not None

    failed = every_failure(
        monkeypatch,
        lambda: [file.unlink() for file in tmp_path.iterdir()],
        operation,
        check,
        code=errno.EIO,
        persistent=persistent,
    )

    assert ["open_lock", "lock", "names", "create", "mode", "write"] == failed[:6]
    assert ["names", "close"] == failed[-2:]


@pytest.mark.fault(97)
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_a_lock_that_cannot_be_made_is_a_resource_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Nobody is let in, and nothing stays."""
    entered: list[int] = []

    def operation() -> None:
        with fsio.exclusive(str(tmp_path / "lock")):
            entered.append(1)

    def check(counter: FaultCounter, error: ResourceError | None) -> None:
        assert (error is None) == bool(entered), counter.failed
        assert error is None or "lock: cannot be written" in str(error)
        assert [] == [name for name in tmp_path.iterdir() if error is None]
        entered.clear()

    failed = every_failure(monkeypatch, lambda: None, operation, check, code=code, persistent=True)

    assert ["open_lock", "lock", "close"] == failed


@pytest.mark.fault(96)
def test_what_cannot_be_unlinked_stays_and_nothing_else_suffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundles: tuple[Bundle, Bundle], contents: tuple[bytes, bytes]
) -> None:
    """A second name of the new file is all that is left, and a later process takes it away."""
    with monkeypatch.context() as patch:
        patch.setattr(fsio.current, "unlink", _denied, raising=False)
        bundles[1].save(tmp_path / "x.ddset")
    (left,) = tmp_path.glob(".*.tmp")
    left.rename(str(left).replace(f".{os.getpid()}-", f".{dead_process()}-"))
    bundles[0].save(tmp_path / "x.ddset", force=True)

    assert {"x.ddset": contents[0]} == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def _denied(path: str) -> None:
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def dead_process() -> int:
    """The number of a process that there is no more."""
    child = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitpid(child, 0)
    return child


@pytest.mark.fault(98)
def test_a_call_that_is_interrupted_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a thousand times, with a message."""
    monkeypatch.setattr(fsio, "current", FaultCounter(3, errno.EINTR, persistent=True))
    with pytest.raises(ResourceError, match="interrupted 1000 times"), fsio.atomic_output(tmp_path / "x") as file:
        file.write(bytes(10))

    assert [] == list(tmp_path.iterdir())


@pytest.mark.fault(97)
def test_a_device_that_writes_nothing_and_says_so_is_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of 0 bytes."""
    monkeypatch.setattr(fsio, "current", FaultCounter(1000, 0, persistent=False, longest=0))
    with pytest.raises(ResourceError, match="cannot be written"), fsio.atomic_output(tmp_path / "x") as file:
        file.write(bytes(10))


@pytest.mark.parametrize("name", ["fsync", "sync_directory"])
def test_a_file_system_that_cannot_sync_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """EINVAL is what network and user file systems say."""

    def unsupported(_what: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fsio.current, name, unsupported, raising=False)
    with fsio.atomic_output(tmp_path / "x") as file:
        file.write(b"new")

    assert b"new" == (tmp_path / "x").read_bytes()


@pytest.mark.fault(96)
@pytest.mark.parametrize("at", [1, 4, 9])
def test_the_command_line_exits_with_6_and_names_the_file(
    run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A full disk at the lock, at the first and at a later writing: no output, no temporary, one line."""
    monkeypatch.setattr(fsio, "current", FaultCounter(at, errno.ENOSPC, persistent=True))
    outcome = run_cli("distill", "--data", tiny, "--method", "random", "--ipc", "1", "-q", "-o", tmp_path / "x.ddset")

    assert 6 == outcome.code, outcome
    assert "x.ddset" in outcome.err
    assert "No space left on device" in outcome.err
    assert "Traceback" not in outcome.err
    assert [] == [file for file in tmp_path.iterdir() if file.suffix != ".lock"]
