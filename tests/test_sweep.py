"""The sweep of docs/sweep.mk, end to end on digits, where every job is killed once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

ROOT = Path(__file__).parent.parent
SMALL = ("ARCH=convnet-d1-w8", "EPOCHS=40", "STUDENTS=2", "TEACHER=--epochs 3", "SET_dm=--set steps=20", "PAUSE=0")

KILLED_ONCE = """#!/bin/sh
# The first try of every output is killed after a moment of its own.
for output; do :; done
if [ "$1" != report ] && mkdir "$output.tried" 2>/dev/null; then
  exec timeout -s KILL "$(python3 -c 'import random; print(random.uniform(1, 6))')" {python} -m ddlabel "$@"
fi
exec {python} -m ddlabel "$@"
"""
WRONG = """#!/bin/sh
# One method is refused, as a wrong option is.
case "$*" in *"--method random"*) echo tried >> {log}; set -- "$@" --no-such-option;; esac
exec {python} -m ddlabel "$@"
"""


def command(path: Path, text: str, **values: object) -> Path:
    """A stand-in for `ddlabel`."""
    path.write_text(text.format(python=sys.executable, **values))
    path.chmod(0o755)
    return path


def make(out: Path, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the sweep."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = ["make", "-f", str(ROOT / "docs" / "sweep.mk"), f"OUT={out}", f"DDLABEL={program}", *SMALL, *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_sweep_outlives_kills(tmp_path: Path) -> None:
    """All bundles are there, and hold what they hold where nothing was killed."""
    killed = make(tmp_path / "a", command(tmp_path / "killed", KILLED_ONCE), "-j2", "METHODS=random dm", "IPCS=1")
    quiet = make(
        tmp_path / "b", command(tmp_path / "plain", WRONG, log=tmp_path / "log"), "METHODS=dm", "IPCS=1", "SEEDS=0"
    )

    assert 0 == killed.returncode, killed.stderr
    assert 0 == quiet.returncode, quiet.stderr
    assert "ended with exit 137" in killed.stderr, "nothing was killed"
    names = {path.name for path in (tmp_path / "a").glob("*.ddset")}
    assert {f"{m}-ipc1-seed{s}-scored.ddset" for m in ("random", "dm") for s in (0, 1)} <= names
    assert "<svg" in (tmp_path / "a" / "report.html").read_text()
    assert not list((tmp_path / "a").glob("*.partial*"))
    for name in ("dm-ipc1-seed0.ddset", "dm-ipc1-seed0-scored.ddset", "teacher.ddset"):
        assert Bundle.open(tmp_path / "a" / name).content == Bundle.open(tmp_path / "b" / name).content, name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_what_is_wrong_is_tried_once_and_the_others_finish(tmp_path: Path) -> None:
    """Exit 2 is no reason to try again."""
    log = tmp_path / "log"
    done = make(tmp_path / "a", command(tmp_path / "wrong", WRONG, log=log), "-k", "-j2", "IPCS=1", "SEEDS=0")

    assert 2 == done.returncode
    assert "unknown option '--no-such-option'" in done.stderr
    assert ["tried"] == log.read_text().split()
    assert (tmp_path / "a" / "dm-ipc1-seed0-scored.ddset").exists()


TEACHER_AND_STEPS = """#!/bin/sh
# Stands for ddlabel: every command takes a while, holds a lock as the real one does, and says who made what.
for output; do :; done
case "$1" in report) echo page > "$output"; exit 0;; esac
if ! mkdir "$output.lock" 2>/dev/null; then
  echo "error: another run keeps its state in '$output.partial'" >&2; exit 6
fi
trap 'rmdir "$output.lock"' EXIT
for word; do case "$word" in *.ddset) test "$word" = "$output" || test -e "$word" || exit 3;; esac; done
test -e "$output" && {{ echo "error: output '$output' exists" >&2; exit 2; }}
sleep 0.3
echo "$$" >> "$output.made"
echo bundle > "$output"
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_two_machines_share_a_folder(tmp_path: Path) -> None:
    """Each waits for what the other makes, longer than its tries; nothing is made twice, nothing removed in use."""
    program, out = command(tmp_path / "slow", TEACHER_AND_STEPS), tmp_path / "a"
    words = ["-j2", "TRIES=1", "PAUSE=0.1", "METHODS=random", "IPCS=1 5", "SEEDS=0 1"]
    with ThreadPoolExecutor() as machines:
        both = list(machines.map(lambda _machine: make(out, program, *words), range(2)))

    assert [0, 0] == [done.returncode for done in both], both[0].stderr + both[1].stderr
    made = {path.name: len(path.read_text().split()) for path in out.glob("*.made")}
    assert 1 + 4 * 3 == len(made)
    assert {1} == set(made.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_what_is_older_than_its_inputs_is_made_anew(tmp_path: Path) -> None:
    """As make has it, and only that."""
    program, out = command(tmp_path / "slow", TEACHER_AND_STEPS), tmp_path / "a"
    words = ["METHODS=random", "IPCS=1", "SEEDS=0"]
    make(out, program, *words)
    later = time.time() + 10
    os.utime(out / "teacher.ddset", (later, later))
    done = make(out, program, *words)

    assert 0 == done.returncode, done.stderr
    made = {path.name: len(path.read_text().split()) for path in out.glob("*.made")}
    assert {"teacher.ddset.made": 1, "random-ipc1-seed0.ddset.made": 1} == {n: c for n, c in made.items() if c == 1}
    assert 2 == made["random-ipc1-seed0-soft.ddset.made"] == made["random-ipc1-seed0-scored.ddset.made"]
