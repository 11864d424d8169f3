"""The calibration table of `inspect`: from records made by hand, and from a scored bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ddlabel.cli._calibration import MOST_ROWS, print_calibration


def row(loss: str, arch: str = "mlp", *, scaled: bool = True) -> dict[str, Any]:
    """A row of the numbers that the table reads, each the mean of two students."""
    values = {"ece": 0.1234, "nll": 1.5, "ece_scaled": 0.02, "nll_scaled": 0.75, "temperature": 2.345}
    means = {name: value if scaled or name in {"ece", "nll"} else None for name, value in values.items()}
    return {
        "images": "bundle",
        "labels": "soft",
        "arch": arch,
        "loss": {"name": loss},
        "recipe": {"optimizer": "sgd", "lr": 0.01},
        "calibration": {name: {"values": [mean, mean], "mean": mean} for name, mean in means.items()},
    }


def printed(capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]]) -> list[list[str]]:
    """The lines of the table, each cut into cells."""
    print_calibration("score 1", {"results": rows})
    return [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_ece_in_percent_and_nll_before_and_after_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a row, nets only where there are several; a student without a temperature is a dash, and said."""
    lines = printed(capsys, [row("softce"), row("gift", scaled=False)])
    nets = printed(capsys, [row("softce"), row("softce", "lenet")])

    assert lines[0] == ["score 1: calibration on test data, as trained and scaled"]
    assert lines[1] == ["row", "ECE", "scaled", "NLL", "scaled", "temperature"]
    assert ["bundle, soft, softce", "12.3 %", "2.0 %", "1.500", "0.750", "2.35"] == lines[3]
    assert ["bundle, soft, gift", "12.3 %", "-", "1.500", "-", "-"] == lines[4]
    assert lines[5][0].startswith("-: a student has no temperature")
    assert [line[1] for line in nets[3:]] == ["mlp", "lenet"]
    assert len(nets) == 5


def test_nothing_for_rows_without_it_and_a_pointer_for_many(capsys: pytest.CaptureFixture[str]) -> None:
    """Class-incremental rows have none."""
    bare = {key: value for key, value in row("ce").items() if key != "calibration"}

    assert printed(capsys, [bare]) == []
    assert len(printed(capsys, [row("ce")] * MOST_ROWS)) == 3 + MOST_ROWS
    assert printed(capsys, [row("ce")] * (MOST_ROWS + 1)) == [["score 1: calibration of 13 rows, in --json"]]


def test_inspect_prints_it_and_evaluate_does_not(run_cli, files, tmp_path: Path) -> None:
    """The table of scores is wide enough."""
    scored = tmp_path / "s.ddset"
    outcome = run_cli(
        "evaluate", files.soft, "--data", files.data, "--arch", "mlp", "--epochs", "1", "--seeds", "1", "-o", scored
    )
    seen = run_cli("inspect", scored).out

    assert outcome.code == 0, outcome.err
    assert "calibration" not in outcome.out
    assert "score 1: calibration on test data" in seen
    assert re.search(r"bundle, soft, softce +\d+\.\d %", seen)
    assert all(len(line) <= 100 for line in seen.splitlines())
