"""What a machine does around a run: clocks that jump, threads, memory limits, folders that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle
from ddlabel.cli.app import main

BACKWARDS = """
import itertools, sys, time
hours = itertools.count()
time.time = lambda: 1.7e9 - 3600 * next(hours)
"""
LIMITED = """
import resource, sys, torch
from ddlabel.stages import distill
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
MAIN = "\nfrom ddlabel.cli.app import main\nsys.exit(main(sys.argv[1:]))"


def run(code: str, *arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that first does something to itself."""
    return subprocess.run(
        [sys.executable, "-c", code + MAIN, *map(str, arguments)],
        env={**os.environ, **changes}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.fault(117)
def test_a_clock_that_jumps_back(files, tmp_path: Path) -> None:
    """Three threads as well: the content is that of one thread and a clock that goes forward; no time is negative."""
    path = tmp_path / "x.ddset"
    words = ["distill", "--data", files.data, "--method", "random", "--ipc", "3", "-o", path]
    done = run(BACKWARDS, *words, OMP_NUM_THREADS="3")
    (entry,) = Bundle.open(path).manifest.history

    assert 0 == done.returncode, done.stderr
    assert Bundle.open(files.base).content == Bundle.open(path).content
    assert 0 <= entry["time"]["seconds"] < 100
    assert entry["time"]["started"].startswith("2023-11-14")


@pytest.mark.fault(116)
@pytest.mark.slow
def test_a_memory_limit_that_a_net_does_not_fit(files, tmp_path: Path) -> None:
    """RLIMIT_AS: exit 6 with an option to lower, no traceback, no file."""
    output = tmp_path / "x.ddset"
    words = ["distill", "--data", files.data, "--method", "dm", "--ipc", "2", "--arch", "convnet-d2-w4096"]
    done = run(LIMITED, *words, "--set", "steps=2", "--threads", "1", "-o", output, OMP_NUM_THREADS="1")

    assert 6 == done.returncode, done.stderr
    assert "memory" in done.stderr
    assert "lower" in done.stderr
    assert "Traceback" not in done.stderr
    assert [] == list(tmp_path.iterdir())


@pytest.mark.fault(117)
def test_output_stays_readable_where_nothing_is_usual(run_cli, files, tmp_path: Path, monkeypatch) -> None:
    """No home, one column, no colour, a folder that is gone: tables as in any pipe."""
    before = run_cli("inspect", files.dense)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.delenv("HOME", raising=False)
    for name, value in (("COLUMNS", "1"), ("TERM", "dumb"), ("LC_ALL", "tr_TR"), ("TZ", "Nowhere/Else")):
        monkeypatch.setenv(name, value)
    after = run_cli("inspect", files.dense)

    assert (0, before.out) == (after.code, after.out)


@pytest.mark.fault(117)
@pytest.mark.parametrize(
    "words",
    [
        ["augment-labels", "BASE", "--teacher", "TEACHER", "--kind", "soft", "--codec", "f16"],
        ["augment-labels", "BASE", "--teacher", "TEACHER", "--kind", "dense", "--grid", "3", "--codec", "q8"],
        ["distill", "--data", "DATA", "--method", "herding", "--ipc", "2", "--teacher", "TEACHER"],
        ["refine", "DENSE", "--method", "recode", "--codec", "topk-ms"],
    ],
    ids=["soft", "dense", "coreset", "codec"],
)
def test_threads_do_not_change_what_no_long_sum_decides(run_cli, files, tmp_path: Path, words: list[str]) -> None:
    """Labels, coresets and codecs of one thread and of three; training is another matter (docs/resume.md)."""
    names = {"BASE": files.base, "TEACHER": files.teacher, "DATA": files.data, "DENSE": files.dense}
    found = []
    for threads in ("1", "3"):
        path = tmp_path / f"{threads}.ddset"
        done = run_cli(*(names.get(word, word) for word in words), "--threads", threads, "-q", "-o", path)
        assert 0 == done.code, done.err
        bundle = Bundle.open(path)
        assert int(threads) == bundle.manifest.history[-1]["host"]["threads"]
        found.append({name: record for one in bundle.sections() for name, record in one.tensors.items()})

    assert found[0] == found[1]


@pytest.mark.fault(117)
def test_a_folder_that_may_not_be_written_around_a_run(files, tmp_path: Path) -> None:
    """The working folder of somebody who is not root; nothing is written but the output."""
    with tempfile.TemporaryDirectory() as name:
        here, there = Path(name) / "here", Path(name) / "there"
        here.mkdir()
        there.mkdir()
        Path(name).chmod(0o755)
        here.chmod(0o555)
        there.chmod(0o777)
        bundle = shutil.copy(files.dense, there / "dense.ddset")
        child = os.fork()
        if not child:  # modules are imported before, for this user may not read them
            code = 1
            try:
                os.chdir(here)
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                code = 9 if os.access(".", os.W_OK) else main(["inspect", str(bundle), "--verify", "--quiet"])
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        here.chmod(0o755)

        assert 0 == code
        assert [] == list(here.iterdir())
        assert [Path(bundle)] == list(there.iterdir())
