"""`evaluate --resume` and torchrun as a user meets them: files beside the output, refusals, pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle
from ddlabel.errors import InterruptedRunError
from ddlabel.stages import _rows, evaluate

NET = "convnet-d1-w4"
KILLS = """
import os, random, signal, sys, time
import torch._dynamo  # which torch imports when it first trains, seconds of every run
import ddlabel.stages.evaluate, ddlabel.stages._jobs as jobs, ddlabel.stages._partial as partial
from ddlabel.bundle import Bundle
from ddlabel.cli.app import main

moments, arguments, states = random.Random(1), sys.argv[1:], [(0, 0)]
name = arguments[-1] + ".partial"
for attempt in range(30):
    child = os.fork()
    if not child:
        partial.INTERVAL_S, partial.SHARE, jobs.PAUSE_S, jobs.SHARE = 0.0, 1e9, 0.0, 1e9
        os._exit(main([*arguments, "--resume"]))
    before, until = os.path.exists(name) and os.stat(name).st_ino, time.monotonic() + 20
    while attempt % 2 and time.monotonic() < until and (not os.path.exists(name) or os.stat(name).st_ino == before):
        time.sleep(0.005)
    time.sleep(moments.uniform(0.0, 0.1))
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if os.path.exists(name):
        left = Bundle.open(name, verify=True)
        epoch = left.section("state.student").parameters["epoch"] if left.has("state.student") else 0
        states.append((left.section("state.progress").parameters["done"], epoch))
print(states, file=sys.stderr)
assert states == sorted(states), "every run goes on from the one before"
assert len(set(states)) > 10, "states are left"
sys.exit(main([*arguments, "--resume"]))
"""
"""Starts a run 30 times, kills it at random moments, every second time after it went on, and lets it finish."""
QUICK = ("--epochs", "2", "--seeds", "2", "--arch", f"mlp,{NET}", "--loss", "gift,native", "--threads", "1")


def interrupted_after(monkeypatch: pytest.MonkeyPatch, students: int) -> None:
    """Let a signal come while the student after so many is judged."""
    real, count = _rows.calibrate, iter(range(1000))

    def calibrate(*given):
        if next(count) == students:
            raise InterruptedRunError(2)
        return real(*given)

    monkeypatch.setattr(_rows, "calibrate", calibrate)


@pytest.mark.fault(114)
def test_a_run_that_was_interrupted_goes_on(run_cli, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same content, same pictures, same maps; the state is a bundle, and is gone in the end."""
    names = {}
    for name in ("whole", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        pictures = ("--picture", folder / "p.svg", "--gradcam", folder / "maps")
        names[name] = ("evaluate", files.soft, "--data", files.data, *QUICK, *pictures, "-o", folder / "s.ddset")
    whole = run_cli(*names["whole"])
    with monkeypatch.context() as patch:
        interrupted_after(patch, 5)
        stopped = run_cli(*names["resumed"])
    left = tmp_path / "resumed" / "s.ddset.partial"
    state, shown = left.read_bytes(), run_cli("inspect", left)
    ignored = run_cli(*names["resumed"])
    other = run_cli(*names["resumed"], "--set", "lr=0.5", "--resume")
    kept = left.read_bytes()
    again = run_cli(*names["resumed"], "--resume")
    files_of = {
        name: {str(path.relative_to(tmp_path / name)): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in names
    }

    assert (0, 130, 2, 2, 0) == (whole.code, stopped.code, ignored.code, other.code, again.code), stopped.err
    assert "the state after 5 of 8 jobs is in" in stopped.err
    assert "run the same command with --resume to continue" in stopped.err
    assert "evaluate" in shown.out
    assert "holds the state of an unfinished run" in ignored.err
    assert "option 'set.lr' is (absent), this run has 0.5" in other.err
    assert state == kept
    assert "continuing after 5 of 8 jobs" in again.err
    assert 3 == again.err.count(", seed 0: ") + again.err.count(", seed 1: ")
    assert whole.out == again.out.replace("resumed", "whole")
    maps = {f"maps/{NET}-instance.{kind}" for kind in ("npz", "png")}
    assert {"s.ddset", "p.svg", *maps} == files_of["whole"].keys() == files_of["resumed"].keys()
    for name in ("p.svg", *maps):
        assert files_of["whole"][name].read_bytes() == files_of["resumed"][name].read_bytes()
    contents = {Bundle.open(tmp_path / name / "s.ddset", verify=True).content for name in names}
    assert 1 == len(contents)


def test_without_an_output_there_is_nothing_to_continue(run_cli, files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before any work; without --resume no state is kept, and none is missed."""
    monkeypatch.setattr(evaluate, "run", None)
    outcome = run_cli("evaluate", files.base, "--data", files.data, "--resume")

    assert 2 == outcome.code
    assert "option 'resume' needs an output: without one no state is kept; add -o FILE" in outcome.err


def test_an_interrupt_without_an_output_leaves_nothing(run_cli, files, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before there were states."""
    interrupted_after(monkeypatch, 1)
    outcome = run_cli("evaluate", files.base, "--data", files.data, *QUICK[:-4], "--threads", "1")

    assert 130 == outcome.code
    assert "partial" not in outcome.err


@pytest.mark.slow
@pytest.mark.fault(114)
def test_kills_at_random_moments_lose_nothing(run_cli, files, tmp_path: Path) -> None:
    """SIGKILL, within students and between them, 30 times in one run."""
    arguments = ["evaluate", files.base, "--data", files.data, "--epochs", "200", "--seeds", "3", "--arch", "mlp"]
    arguments += ["--threads", "1", "--no-fsync", "-o"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLS, *map(str, arguments), str(tmp_path / "k.ddset")],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    whole = run_cli(*arguments, tmp_path / "whole.ddset")

    assert (0, 0) == (killed.returncode, whole.code), killed.stderr
    assert Bundle.open(tmp_path / "k.ddset").content == Bundle.open(tmp_path / "whole.ddset").content
    assert ["k.ddset", "whole.ddset"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_shares_students(files, tmp_path: Path) -> None:
    """Real processes: the bundle and the maps of one alone, tables once, no state left."""
    outputs = {}
    for name, launcher in (
        ("alone", ("-m", "ddlabel")),
        ("two", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ddlabel")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        more = ("--baselines", "--teacher", files.teacher, "--gradcam", folder / "maps", "-o", folder / "s.ddset")
        outputs[name] = subprocess.run(
            [sys.executable, *launcher, "evaluate", files.soft, "--data", files.data, *QUICK, *more],
            capture_output=True, text=True, timeout=200, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert 0 == outputs[name].returncode, outputs[name].stderr

    assert outputs["alone"].stdout == outputs["two"].stdout
    contents = {Bundle.open(tmp_path / name / "s.ddset", verify=True).content for name in outputs}
    assert 1 == len(contents)
    for kind in ("npz", "png"):
        alone, two = ((tmp_path / name / "maps" / f"{NET}-instance.{kind}").read_bytes() for name in outputs)
        assert alone == two
    assert ["maps", "s.ddset"] == sorted(path.name for path in (tmp_path / "two").iterdir())
