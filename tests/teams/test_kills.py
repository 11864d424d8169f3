"""Processes that torchrun started and somebody stopped: what is said, and that nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

from .processes import torchrun

NET = ("--arch", "convnet-d1-w8")
COMMANDS = {
    "shares": ("train-teacher", *NET, "--experts", "3", "--epochs", "1000"),
    "same everywhere": ("distill", "--method", "dm", *NET, "--ipc", "2", "--set", "steps=200"),
}
READY = ("needs about", "continuing after")
pytestmark = pytest.mark.skipif(not Path(f"/proc/{os.getpid()}/environ").exists(), reason="reads ranks from /proc")


def rank_of(pid: int) -> str | None:
    """As torchrun told a process."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((value.decode().partition("=")[2] for value in variables if value.startswith(b"RANK=")), None)


def children(parent: int) -> dict[str, int]:
    """Of torchrun, by rank."""
    pids = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return {rank: pid for pid in pids if (rank := rank_of(pid)) is not None}


def stop(run: subprocess.Popen[str], send: Callable[[], None], *, after_s: float) -> str:
    """Send a signal a while after the work has begun; everything that was said on stderr."""
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        assert run.stderr is not None
        for line in run.stderr:
            lines.append(line)
            if line.startswith(READY):
                begun.set()

    with run:
        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(120), lines
        time.sleep(after_s)
        send()
        run.wait(120)
        reader.join()
    return "".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", COMMANDS)
def test_what_is_stopped_and_killed_goes_on_to_the_same_bits(run_cli, tiny: str, tmp_path: Path, kind: str) -> None:
    """SIGTERM to torchrun, SIGKILL to either process, then to the end: as one process does it without a stop."""
    alone, output = tmp_path / "alone.ddset", tmp_path / "x.ddset"
    command = (*COMMANDS[kind], "--data", tiny, "--threads", "1", "--no-fsync")
    run = torchrun([*command, "-o", output], 2)
    said = [stop(run, run.terminate, after_s=1.5)]
    for rank in ("1", "0"):
        run = torchrun([*command, "-o", output, "--resume"], 2)
        said.append(stop(run, lambda: os.kill(children(run.pid)[rank], signal.SIGKILL), after_s=1.0))  # noqa: B023
    resumed = torchrun([*command, "-o", output, "--resume"], 2)
    _out, last = resumed.communicate(timeout=200)

    assert 0 == resumed.returncode, last
    assert "--resume" in said[0]
    assert "continuing after" in said[1]
    assert "continuing after" in said[2]
    assert "error: " in said[1]
    assert "process 1 of 2: error: " in said[2]
    assert run_cli(*command, "-q", "-o", alone).code == 0
    assert Bundle.open(alone).content == Bundle.open(output).content
    assert [alone, output] == sorted(tmp_path.iterdir())
