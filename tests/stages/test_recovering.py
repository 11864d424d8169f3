"""`distill --method sre2l` through the command line: what it writes, what it refuses, PAD's filter and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.errors import UsageError
from ddlabel.stages._distill_teachers import chosen_epoch
from ddlabel.teachers import Teacher

from ..conftest import run_command


@pytest.fixture(scope="module")
def squeezed(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net with batch norm, trained by PAD's curriculum, which adds images until epoch 4; untrained it is kept too."""
    path = tmp_path_factory.mktemp("squeezed") / "t.ddset"
    outcome = run_command(
        "train-teacher", "--data", tiny, "--arch", "convnet-d1-w8-bn", "--epochs", "6", "--keep", "0,3,4,6",
        "--scores", "el2n", "--curriculum", "pad", "--set", "aee=4", "--set", "lr=0.1", "--set", "batch=16",
        "--set", "score_nets=1", "--set", "score_epoch=1", "--set", "score_arch=convnet-d1-w8", "-o", path,
    )  # fmt: skip
    assert 0 == outcome.code, outcome.err
    return path


def recover(run_cli, data: str, teacher: Path, path: Path, *more: str):
    return run_cli(
        "distill", "--data", data, "--method", "sre2l", "--ipc", "2", "--teacher", teacher, "--set", "steps=4", *more,
        "-o", path,
    )  # fmt: skip


def test_recovered_images_come_with_numbers_and_settings(run_cli, tiny: str, squeezed: Path, tmp_path: Path) -> None:
    """Eight-bit images; what auto stood for; PAD's options change both the statistics and the layers."""
    plain = recover(run_cli, tiny, squeezed, tmp_path / "a.ddset")
    fiex = recover(run_cli, tiny, squeezed, tmp_path / "b.ddset", "--filter", "hard:0.2", "--mask-shallow", "0.5")
    bundles = [Bundle.open(tmp_path / f"{name}.ddset") for name in "ab"]
    entries = [bundle.manifest.history[-1] for bundle in bundles]

    assert (0, 0) == (plain.code, fiex.code), plain.err + fiex.err
    assert torch.uint8 == bundles[0].tensor("images.pixels").dtype
    assert {"ce", "r_bn", "ce_noise", "r_bn_noise", "bn_weight"} <= entries[0]["metrics"].keys()
    assert {"steps": 4, "lr_images": 0.25, "crop": False, "roll_max": 1} == {
        name: entries[0]["config"]["recovery"][name] for name in ("steps", "lr_images", "crop", "roll_max")
    }
    assert ["teacher", "data"] == [entry["config"]["recovery"]["bn_stats"] for entry in entries]
    assert 0.5 == entries[1]["config"]["options"]["mask_shallow"]
    assert bundles[0].content != bundles[1].content


def test_what_cannot_be_looked_through_is_refused(run_cli, files, squeezed: Path, tmp_path: Path) -> None:
    """No batch norm, and nets at chance, with advice; exit codes 2 and 3."""
    instance = recover(run_cli, files.data, files.teacher, tmp_path / "a.ddset")
    chance = recover(run_cli, files.data, squeezed, tmp_path / "b.ddset", "--checkpoint", "0")

    assert (2, 3) == (instance.code, chance.code)
    assert "no batch norm" in instance.err
    assert "--arch convnet-d1-bn" in instance.err
    assert "is right for" in chance.err


def test_pads_checkpoint_knows_easy_images_only_for_small_budgets(squeezed: Path, files) -> None:
    """The latest epoch up to AEE for up to 10 images per class, then the last; no curriculum, no rule."""
    teacher = Teacher(Bundle.open(squeezed))

    assert ["4", "4", "last"] == [chosen_epoch(teacher, "pad", ipc) for ipc in (1, 10, 11)]
    for ipc in (1, 50):
        with pytest.raises(UsageError, match=r"records none.*--curriculum pad"):
            chosen_epoch(Teacher(Bundle.open(files.teacher)), "pad", ipc)


def test_pads_checkpoint_must_have_been_kept(squeezed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epochs there are, and which to keep."""
    teacher = Teacher(Bundle.open(squeezed))
    monkeypatch.setattr(teacher, "checkpoints", tuple(item for item in teacher.checkpoints if item.epoch in {0, 6}))
    with pytest.raises(UsageError, match=r"takes an epoch up to 4 for 1 images per class.*kept 0, 6.*--keep 4"):
        chosen_epoch(teacher, "pad", 1)
