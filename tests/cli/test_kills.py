"""Every long stage, stopped by SIGKILL at random moments, by a full disk and by signals: nothing is lost.

A process that has imported everything forks the runs, so that one costs milliseconds to start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddlabel import fsio
from ddlabel.bundle import Bundle
from ddlabel.cli.app import main

from ..bundle.forging import Forgery

NURSERY = """
import contextlib, json, os, signal, sys
import torch
import ddlabel.stages._partial as partial
import ddlabel.stages._labelling as labelling
from ddlabel.cli.app import main
from ddlabel.stages import augment_labels, distill, evaluate, refine, train_teacher
torch.set_num_threads(1)
partial.INTERVAL_S, partial.SHARE, labelling.VIEWS_AT_ONCE = 0.0, 1e9, 8
for line in sys.stdin:
    if line.startswith("!"):
        with contextlib.redirect_stdout(sys.stderr):
            main(json.loads(line[1:]))
        print(0, flush=True)
        continue
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os._exit(main(json.loads(line)))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
NET = ("--arch", "convnet-d1-w8")
SMALL = ("--threads", "1")
KILLS = 30
CLOCK = "1700000000"
STAGES = ("train-teacher", "distill", "augment-labels", "refine", "evaluate")


class Nursery:
    """Runs command lines in forked processes, one at a time; states are kept after every step."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed at the end
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": CLOCK},
        )  # fmt: skip
        self._heard = 0

    def learn(self, arguments: list[str]) -> None:
        """A run in the process itself, which then has all modules that the command needs."""
        self._process.stdin.write("!" + json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def run(self, arguments: list[str], after: float | None = None, number: int = signal.SIGKILL) -> int:
        """The exit code of a run that gets a signal so many seconds after its start; negative: died of a signal."""
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if after is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    def news(self) -> str:
        """What was said on stderr since the last time."""
        size = os.fstat(self._said.fileno()).st_size
        data = os.pread(self._said.fileno(), size - self._heard, self._heard)
        self._heard = size
        return data.decode()

    def end(self) -> str:
        """What all runs said on stderr."""
        self._process.communicate(timeout=60)
        self._heard = 0
        with self._said:
            return self.news()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """One for all tests."""
    nursery = Nursery()
    yield nursery
    said = nursery.end()
    assert "Traceback" not in said, said[-3000:]


@pytest.fixture(autouse=True)
def _fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that equal bundles have equal bytes."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", CLOCK)


def command(stage: str, files, steps: int) -> list[str]:
    """A run of a stage with so many steps, or about as many."""
    data = ["--data", files.data]
    lines = {
        "train-teacher": ["train-teacher", *data, *NET, "--epochs", str(steps), "--experts", "2", "--set", "batch=16"],
        "distill": [
            "distill", *data, *NET, "--method", "dm", "--ipc", "1", "--set", f"steps={3 * steps}",
            "--set", "batch_real=4",
        ],
        "augment-labels": [
            "augment-labels", str(files.base), "--teacher", str(files.teacher), "--kind", "dense",
            "--grid", "3", "--ratio", "1/2", "--codec", "q8",
        ],
        "refine": [
            "refine", str(files.base), *data, *NET, "--method", "dcpi", "--set", f"steps={steps}",
            "--set", "outer=1", "--set", "inner=1", "--set", "batch_real=4",
        ],
        "evaluate": [
            "evaluate", str(files.soft), *data, *NET, "--epochs", "10", "--seeds", str(max(2, steps // 2)),
            "--baselines", "--teacher", str(files.teacher),
        ],
    }  # fmt: skip
    return [*lines[stage], *SMALL]


def continued(said: str) -> list[int]:
    """After how many steps runs went on, by their own words."""
    return [int(number) for number in re.findall(r"continuing after (\d+) of ", said)]


def done(partial: Path) -> int:
    """Steps of a state, every byte of which is checked; 0 without one."""
    return Bundle.open(partial, verify=True).section("state.progress").parameters["done"] if partial.exists() else 0


@pytest.mark.slow
@pytest.mark.fault(99, 114)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_moments_nothing_is_lost(nursery: Nursery, files, tmp_path: Path, stage: str) -> None:
    """At least 30 kills: states only grow, are whole, and lead to the bytes of a run that nobody disturbed."""
    whole, output = tmp_path / "whole.ddset", tmp_path / "x.ddset"
    partial = Path(f"{output}.partial")
    arguments = command(stage, files, steps=8)
    nursery.learn([*arguments, "-o", str(tmp_path / "first.ddset")])
    started = time.monotonic()
    assert 0 == nursery.run([*arguments, "-o", str(whole)])
    length = time.monotonic() - started
    source, kills, before = random.Random(20), 0, 0
    states, resumed = set[int](), set[int]()
    nursery.news()
    until = time.monotonic() + 270
    while kills < KILLS:
        assert time.monotonic() < until, f"{kills} kills only"
        code = nursery.run([*arguments, "-o", str(output), "--resume"], after=source.uniform(0, length))
        assert code in {0, -signal.SIGKILL}
        kills += code != 0
        words = continued(nursery.news())
        assert words in ([], [before] * (before > 0)), "it went on from another state than the one that was there"
        resumed |= {*words}
        if output.exists():
            assert whole.read_bytes() == output.read_bytes()
            output.unlink()
            partial.unlink(missing_ok=True)
            before = 0
            continue
        assert before <= done(partial)
        before = done(partial)
        states.add(before)
    assert 0 == nursery.run([*arguments, "-o", str(output), "--resume"])

    assert [before] * (before > 0) == continued(nursery.news())
    assert len(states - {0}) > 1, "no run was killed between two states"
    assert len(resumed) > 1, "nothing was continued"
    assert whole.read_bytes() == output.read_bytes()
    assert {"first.ddset", "whole.ddset", "x.ddset"} == {path.name for path in tmp_path.iterdir()}, (
        "something was left behind"
    )


@pytest.mark.slow
@pytest.mark.fault(110)
@pytest.mark.parametrize("stage", STAGES)
def test_signals_again_and_again(nursery: Nursery, files, tmp_path: Path, stage: str) -> None:
    """SIGINT, SIGTERM and SIGHUP at random moments: their exit codes, and the bytes of an undisturbed run."""
    whole, output = tmp_path / "whole.ddset", tmp_path / "x.ddset"
    partial, before = Path(f"{output}.partial"), 0
    arguments = command(stage, files, steps=8)
    nursery.learn([*arguments, "-o", str(tmp_path / "first.ddset")])
    started = time.monotonic()
    assert 0 == nursery.run([*arguments, "-o", str(whole)])
    length = time.monotonic() - started
    source, stopped = random.Random(21), 0
    nursery.news()
    resumed = set[int]()
    for number in 3 * (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        code = nursery.run([*arguments, "-o", str(output), "--resume"], source.uniform(0.1, 0.5) * length, number)
        assert code in {0, 128 + number, -number}, code  # one that comes before handlers are there kills
        stopped += code != 0
        words = continued(nursery.news())
        assert words in ([], [before] * (before > 0)), "it went on from another state than the one that was there"
        resumed |= {*words}
        assert output.exists() or before <= done(partial)
        if output.exists():
            assert whole.read_bytes() == output.read_bytes()
            output.unlink()
        before = done(partial)
    assert 0 == nursery.run([*arguments, "-o", str(output), "--resume"])

    assert [before] * (before > 0) == continued(nursery.news())
    assert stopped >= 3
    assert resumed, "nothing was continued"
    assert whole.read_bytes() == output.read_bytes()


class FullDisk(fsio.FileSystem):
    """Has room for states, not for the result."""

    def __init__(self, output: Path) -> None:
        self._prefix, self._open = f".{output.name}.", set[int]()

    def create(self, path: str, mode: int) -> int:
        """Remember the result's file."""
        descriptor = super().create(path, mode)
        name = os.path.basename(path)
        if name.startswith(self._prefix) and not name.startswith(f"{self._prefix}partial"):
            self._open.add(descriptor)
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        """Refuse it."""
        if descriptor in self._open:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(descriptor, data)

    def close(self, descriptor: int) -> None:
        """Forget it."""
        self._open.discard(descriptor)
        super().close(descriptor)


@pytest.mark.fault(96)
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_at_the_end_of_any_stage(
    run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Exit 6, the work is kept, and continuing writes the bytes of a run with room enough."""
    whole, output = tmp_path / "whole.ddset", tmp_path / "x.ddset"
    arguments = command(stage, files, steps=2)
    assert 0 == main([*arguments, "-o", str(whole)])
    with monkeypatch.context() as patch:
        patch.setattr(fsio, "current", FullDisk(output))
        failed = run_cli(*arguments, "-o", output)
    left = sorted(path.name for path in tmp_path.iterdir())
    state = Bundle.open(f"{output}.partial").section("state.progress").parameters
    continued = run_cli(*arguments, "-o", output, "--resume")

    assert 6 == failed.code, failed.err
    assert "free some space" in failed.err
    assert ["whole.ddset", "x.ddset.partial"] == left
    assert state["done"] > 0
    assert 0 == continued.code, continued.err
    assert whole.read_bytes() == output.read_bytes()


@pytest.mark.fault(112)
def test_a_resume_on_another_device_is_refused(run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of a GPU does not go on on a CPU: exit 2 naming both, and the state stays."""
    output = tmp_path / "x.ddset"
    partial = Path(f"{output}.partial")
    arguments = command("distill", files, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(fsio, "current", FullDisk(output))
        assert 6 == run_cli(*arguments, "-o", output).code
    forged = Forgery.of(partial.read_bytes())
    here = forged.document["history"][-1]["host"]["device"]
    forged.document["history"][-1]["host"]["device"] = "NVIDIA H200"
    partial.write_bytes(forged.build())
    before = partial.read_bytes()
    refused = run_cli(*arguments, "-o", output, "--resume")

    assert 2 == refused.code, refused.err
    assert f"{partial}: 'device' is NVIDIA H200, this run has {here}" in refused.err
    assert before == partial.read_bytes()
    assert [partial] == list(tmp_path.iterdir())
