"""A kill or a power failure after any call of a write: the old bundle, the new one, or nothing if there was none.

The op log gives the calls; from every beginning of it the disk is rebuilt, once as a kill leaves it, and once in every
way that a power failure may: what was not synced dropped, zeroed or torn, names that were not synced lost or not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ddlabel import fsio
from ddlabel.bundle import Bundle

from .disks import Disk, OpLog
from .test_fault_counter import bundle, dead_process


@pytest.fixture(scope="module")
def bundles() -> tuple[Bundle, Bundle, Bundle]:
    """Old, new, and another."""
    return bundle(1), bundle(2), bundle(3)


@pytest.fixture(scope="module")
def contents(bundles: tuple[Bundle, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    """Their files."""
    folder = tmp_path_factory.mktemp("contents")
    for name, made in zip("abc", bundles, strict=True):
        made.save(folder / name)
    return tuple((folder / name).read_bytes() for name in "abc")


def logged(monkeypatch: pytest.MonkeyPatch, operation: Callable[[], object], *, links: bool = True) -> OpLog:
    log = OpLog(links=links)
    with monkeypatch.context() as patch:
        patch.setattr(fsio, "current", log)
        operation()
    return log


WAYS = pytest.mark.parametrize(
    ("force", "links"), [(False, True), (True, True), (False, False)], ids=["new file", "replacing", "without links"]
)


@pytest.mark.fault(100)
@WAYS
def test_a_power_failure_after_any_call_leaves_old_or_new(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: tuple[Bundle, ...],
    contents: tuple[bytes, ...],
    force: bool,
    links: bool,
) -> None:
    """Also where a disk keeps calls in another order than they were made."""
    path, (old, new, _other) = tmp_path / "x.ddset", contents
    before = {str(path): old} if force else {}
    if force:
        path.write_bytes(old)
    log = logged(monkeypatch, lambda: bundles[1].save(path, force=force), links=links)
    found = [disk.after_power_loss(str(path)) for disk in log.replay(before)]

    allowed = {old if force else None, new}
    assert all(states <= allowed for states in found)
    assert {old if force else None} == found[0]
    assert {new} == found[-1]
    assert allowed in found  # there was a moment when either could remain


def test_the_model_notices_a_write_without_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundles: tuple[Bundle, ...], contents: tuple[bytes, ...]
) -> None:
    """`--no-fsync` holds against kills, not against power failures: the model tells them apart."""
    path = tmp_path / "x.ddset"
    log = logged(monkeypatch, lambda: bundles[1].save(path, durable=False))
    *_rest, last = log.replay({})
    lost = last.after_power_loss(str(path))

    assert contents[1] == last.after_kill()[str(path)]
    assert {None, b"", contents[1], bytes(len(contents[1]))} <= lost
    assert any(state not in {None, contents[1]} and contents[1].startswith(state) for state in lost if state)


def test_the_model_notices_an_empty_claim(contents: tuple[bytes, ...]) -> None:
    """A claim under the name itself would be seen empty."""
    disk = Disk()
    for call in (("create", "/x", 0), ("sync_directory", "/")):
        disk.apply(call)

    assert {b""} == disk.after_power_loss("/x")


@pytest.mark.fault(99)
@WAYS
@pytest.mark.parametrize("durable", [True, False], ids=["", "no fsync"])
def test_a_kill_after_any_call_leaves_old_or_new_and_the_next_write_cleans_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundles: tuple[Bundle, ...],
    contents: tuple[bytes, ...],
    force: bool,
    links: bool,
    durable: bool,
) -> None:
    """Every state is rebuilt on a real disk and written to again; a bundle that is there opens and verifies."""
    path, (old, new, other) = tmp_path / "x.ddset", contents
    if force:
        path.write_bytes(old)
    log = logged(monkeypatch, lambda: bundles[1].save(path, force=force, durable=durable), links=links)
    path.unlink()
    dead = dead_process()
    states = list(log.replay({str(path): old} if force else {}))
    for disk in states:
        for name, data in disk.after_kill().items():
            Path(name.replace(f".{os.getpid()}-", f".{dead}-")).write_bytes(data)
        found = path.read_bytes() if path.exists() else None
        assert found in {old if force else None, new}
        assert found is None or [] == Bundle.open(path).verify()
        bundles[2].save(path, force=True, durable=False)

        assert other == path.read_bytes()
        assert {path} == {file for file in tmp_path.iterdir() if not file.name.endswith(".claim")}
        for file in tmp_path.iterdir():
            file.unlink()

    assert len(states) >= 7


@pytest.mark.fault(99, 100)
def test_a_run_never_loses_both_its_state_and_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundles: tuple[Bundle, ...], contents: tuple[bytes, ...]
) -> None:
    """From its first state on, one of the two is there whole, whatever the moment; the state only goes after that."""
    state, output = tmp_path / "x.ddset.partial", tmp_path / "x.ddset"
    first, second, result = contents

    def run() -> None:
        with fsio.exclusive(str(tmp_path / ".x.ddset.partial.lock")):
            bundles[0].save(state, force=True)
            bundles[1].save(state, force=True)
            bundles[2].save(output)
            fsio.remove_output(str(state))

    log = logged(monkeypatch, run)
    kept = False
    for disk in log.replay({}):
        states, outputs = disk.after_power_loss(str(state)), disk.after_power_loss(str(output))
        assert states <= {None, first, second}
        assert outputs <= {None, result}
        kept = kept or None not in states
        assert not kept or not (None in states and None in outputs)

    assert kept
    assert (None, {result}) == (disk.after_kill().get(str(state)), outputs)


@pytest.mark.fault(99)
def test_a_kill_inside_a_lock_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any call of taking and leaving it."""
    lock = tmp_path / "lock"

    def hold() -> None:
        with fsio.exclusive(str(lock)):
            pass

    log = logged(monkeypatch, hold)
    for disk in log.replay({}):
        for name, data in disk.after_kill().items():
            Path(name).write_bytes(data)
        hold()

        assert not lock.exists()

    assert ["create", "unlink"] == [call[0] for call in log.calls]
