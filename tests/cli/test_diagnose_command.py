"""`evaluate --diagnose`: the picture, the record, the tables, and what is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddlabel.bundle import Bundle
from ddlabel.nets._net import Net
from ddlabel.stages._basis import Sources
from ddlabel.teachers import Teacher

NET = "convnet-d1-w8"
QUICK = ("--arch", NET, "--epochs", "1", "--seeds", "1")


@pytest.fixture(scope="module")
def rich(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature labels by the teacher."""
    path = tmp_path_factory.mktemp("diagnose") / "rich.ddset"
    made = run_cli("augment-labels", files.base, "--teacher", files.teacher, "--kind", "feature", "-o", path)
    assert made.code == 0, made.err
    return path


def seeing(add: Callable[[Sources, Net], None], firsts: list[Tensor]) -> Callable[[Sources, Net], None]:
    """The same, noting the first parameter of every net."""

    def noting(source: Sources, net: Net) -> None:
        firsts.append(next(net.parameters()))
        add(source, net)

    return noting


def test_labels_are_measured_drawn_and_shown(run_cli, files, rich, tmp_path: Path, monkeypatch) -> None:
    """With the teacher at hand labels are told apart in features of its net of epoch 1, whose features they are.

    It kept epoch 4 too. The record names no folder.
    """
    monkeypatch.setattr("ddlabel.stages._alignment.STEPS", 1)
    firsts: list[Tensor] = []
    monkeypatch.setattr(Sources, "add", seeing(Sources.add, firsts))
    picture, scored = tmp_path / "labels.png", tmp_path / "scored.ddset"
    outcome = run_cli(
        "evaluate", rich, "--data", files.data, *QUICK, "--teacher", files.teacher, "--diagnose", picture, "-o", scored
    )
    manifest = json.loads(run_cli("inspect", scored, "--json").out)["bundles"][0]["manifest"]
    record = manifest["evaluations"][-1]["diagnostics"]
    shown, teacher = run_cli("inspect", scored).out, Teacher(Bundle.open(files.teacher))

    assert outcome.code == 0, outcome.err
    assert f"wrote {picture}" in outcome.err
    with Image.open(picture) as image:
        assert image.size == (960, 400)
    assert manifest["history"][-1]["config"]["diagnose"] == "labels.png"
    assert record["told_apart_by"] == "teachers"
    assert len(firsts) == 1
    assert torch.equal(firsts[0], next(teacher.net(teacher.select("1")[0]).parameters()))
    assert record["measures"]["labels"]["head_accuracy"] > record["measures"]["noise"]["head_accuracy"]
    for text in (outcome.out, shown):
        assert "effective rank" in text
        assert "features of the teachers that made the labels" in text


def test_pictures_that_cannot_be_are_refused_before_any_work(run_cli, files, rich, tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"kept")
    common = ("evaluate", rich, "--data", files.data, *QUICK)
    cases = {
        "exists": run_cli(*common, "--diagnose", there),
        "expected the name of a PNG file": run_cli(*common, "--diagnose", "-"),
        "is also an input": run_cli(*common, "--diagnose", rich, "--force"),
        "which is the output too": run_cli(*common, "--diagnose", tmp_path / "a", "-o", tmp_path / "a"),
        "--labels is 'hard'": run_cli(*common, "--labels", "hard", "--diagnose", tmp_path / "a.png"),
    }

    for said, outcome in cases.items():
        assert outcome.code == 2
        assert said in outcome.err
    assert there.read_bytes() == b"kept"
