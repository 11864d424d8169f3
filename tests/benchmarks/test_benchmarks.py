"""The benchmark: both sides of a work do the same, and figures follow from samples as the page says."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import bench  # noqa: E402
from _work import Sample, Work, growth, measure, spread, summary, timed, works  # noqa: E402

CPU = torch.device("cpu")
WORKS = works()
NAMED = {
    *("bundle-read", "bundle-write", "codec-decode", "codec-encode", "dense-labels", "help", "inspect"),
    *("dc-step", "dm-step", "dsa-step", "mtt-iteration", "mtt-large", "rded-convnet", "rded-resnet18", "sre2l-step"),
}
SHORT = ("bundle-write", "bundle-read", "help", "inspect")
"""Works that take less than three seconds as they are."""


def load_tables():
    spec = importlib.util.spec_from_file_location("tables_speed", HERE.parents[1] / "docs" / "tables_speed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def taken(seconds: Sequence[float], megabytes: float = 100.0) -> list[Sample]:
    """Samples of rounds."""
    return [Sample(value, 2 * value, megabytes, megabytes - 90, 50.0 + value) for value in seconds]


def pretend(**changes: object) -> Work:
    """A work that is never run."""
    given = {
        "name": "pretend",
        "about": "nothing",
        "sizes": {"small": {"count": 1}, "large": {"count": 8}},
        "ours": lambda device, count: lambda: count,
        "flops": lambda count: count * 2e9,
        "items": lambda count: 10 * count,
        "unit": "things",
        "target": 1.5,
    }
    return Work(**{**given, **changes})


def test_list_names_every_work(capsys) -> None:
    """Those that the plan asks for are there, and `--list` shows all."""
    assert bench.main(["--list"]) == 0

    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == set(WORKS)
    assert listed >= NAMED


def test_a_work_that_is_not_there_is_named(capsys) -> None:
    """With those that are."""
    assert bench.main(["dc-step", "dc-stop"]) == 2

    error = capsys.readouterr().err
    assert "unknown work dc-stop" in error
    assert "mtt-iteration" in error


@pytest.mark.parametrize("name", [name for name, work in WORKS.items() if work.tiny])
def test_both_sides_give_the_same(name: str) -> None:
    """Each builds and runs at a tiny size, and what the reference returns is what we return, to rounding."""
    work = WORKS[name]
    ours = work.ours(CPU, **work.tiny)()
    if work.reference is None:
        return
    theirs = work.reference(CPU, **work.tiny)()

    assert isinstance(ours, torch.Tensor) == isinstance(theirs, torch.Tensor)
    if isinstance(ours, torch.Tensor):
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


def test_flops_and_items_take_the_sizes_of_their_work() -> None:
    """Counts are known for every size before anything runs."""
    for work in WORKS.values():
        for count in (work.flops, work.items):
            assert count is None or all(count(**size) > 0 for size in work.sizes.values())


def test_flops_are_those_of_the_figures() -> None:
    """A DC step of ipc 1: three passes of 512 real images, seven of two distilled ones, 101 MFLOP each."""
    assert WORKS["dc-step"].flops(ipc=1) == pytest.approx(101.4e6 * (3 * 512 + 7 * 2), rel=0.01)
    assert WORKS["mtt-iteration"].flops(steps=20, batch=100) == pytest.approx(9 * 2000 * 101.5e6, rel=0.01)


def test_a_row_is_made_of_medians_and_of_ratios_round_by_round() -> None:
    """The ratio of a round is of its own pair, not of medians."""
    samples = {"reference": taken([4.0, 9.0, 8.0], 400), "ours": taken([2.0, 3.0, 8.0])}

    row = summary(pretend(), "large", samples)

    assert row["ratio_seconds"] == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert row["ratio_cpu_seconds"] == row["ratio_seconds"]
    ours = row["sides"]["ours"]
    assert (ours["seconds"], ours["cpu_seconds"], ours["peak_mb"], ours["own_mb"]) == (3.0, 6.0, 100.0, 10.0)
    assert ours["matmul_gflops"] == 58.0
    assert ours["gflops"] == pytest.approx(16 / 3)
    assert ours["share"] == pytest.approx(16 / 3 / 58)
    assert ours["items_per_second"] == pytest.approx(80 / 3)
    assert row["sides"]["reference"]["seconds"] == 8.0


def test_a_work_without_reference_has_no_ratio() -> None:
    """And without a count no rates."""
    row = summary(pretend(flops=None, items=None), "small", {"ours": taken([1.0])})

    assert "ratio_seconds" not in row
    assert [row["sides"]["ours"][name] for name in ("gflops", "share", "items_per_second")] == [None] * 3


def test_growth_is_ours_against_the_first_size() -> None:
    """Time and peak memory."""
    rows = [
        summary(pretend(), size, {"ours": taken([seconds], megabytes)})
        for size, seconds, megabytes in (("small", 2.0, 100.0), ("large", 5.0, 150.0))
    ]

    assert growth(rows) == [{"seconds": 1.0, "peak_mb": 1.0}, {"seconds": 2.5, "peak_mb": 1.5}]
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_memory_of_a_work_is_above_what_was_held_before(monkeypatch) -> None:
    """A peak that is gone when it is read still counts."""
    monkeypatch.setattr("_work.matmul_gflops", lambda device: 1.0)
    work = pretend(ours=lambda device, count: lambda: len(bytearray(b"x") * (64 * 2**20)), repeat=1, warm=0)

    seen = measure(work, "small", "ours", CPU)

    assert 60 <= seen.own_mb <= 200
    assert seen.peak_mb > seen.own_mb


def test_cpu_seconds_include_processes() -> None:
    """Of a command that was waited for."""
    import subprocess

    busy = "import time; end = time.process_time() + 0.1\nwhile time.process_time() < end: pass"
    _seconds, cpu = timed(lambda: subprocess.run([sys.executable, "-S", "-c", busy], check=True), CPU)

    assert cpu >= 0.05  # of the 0.1 it burns; the clock counts in hundredths


def test_the_page_is_written_from_the_report(monkeypatch, tmp_path: Path, capsys) -> None:
    """Hardware, ratios, targets and growth stand in it; a ratio that reaches its target is bold."""
    given = {"reference": iter(taken([4.0, 8.0], 400)), "ours": iter(taken([2.0, 8.0]))}
    monkeypatch.setattr(bench, "fresh", lambda work, size, side, chosen: next(given[side]))
    monkeypatch.setattr(bench, "works", lambda: {"pretend": pretend(reference=lambda device, count: lambda: count)})
    file = tmp_path / "speed.json"
    assert bench.main(["--rounds", "1", "--threads", "1", "--json", str(file)]) == 0
    tables = load_tables()
    monkeypatch.setattr(tables, "HERE", tmp_path)

    tables.main([str(file)])

    text = (tmp_path / "results-speed.md").read_text("utf-8")
    report = json.loads(file.read_text("utf-8"))
    assert report["origin"]["commit"] in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    small = "| `pretend` | small | 4 | 2 | **2.00** (2.00 to 2.00) | 1.5 | 1 | 2% | 5 things | 400 (310) | 100 (10) |"
    assert f"{small} 1.00, 1.00 |" in text
    assert "| `pretend` | large | 8 | 8 | 1.00 (1.00 to 1.00) | 1.5 | 2 | 3% |" in text
    assert "4.00, 1.00 |" in text
    assert str(tmp_path) not in text
    assert "ratio of CPU seconds 2.00" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_short_works_run_at_their_size(name: str, capsys) -> None:
    """In processes of their own, both sides."""
    assert bench.main([name, "--rounds", "1", "--threads", "1"]) == 0

    assert f"{name}:" in capsys.readouterr().out
