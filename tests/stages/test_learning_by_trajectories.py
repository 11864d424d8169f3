"""Feature and attention labels by trajectory matching through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.distilled import IMAGES
from ddlabel.labels._privileged import read_privileged

from ..conftest import Outcome, run_command

NET = "convnet-d1-w8"
QUICK = ("--set", "steps=2", "--set", "syn_steps=3", "--set", "expert_epochs=1", "--set", "max_start_epoch=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Path:
    """A folder with an expert, and a set that DATM distilled."""
    folder = tmp_path_factory.mktemp("trajectories")
    experts = ("train-teacher", "--data", tiny, "--arch", NET, "--experts", "1", "--epochs", "3", "--set", "batch=16")
    assert run_command(*experts, "-o", folder / "experts.ddset").code == 0
    distil = ("distill", "--data", tiny, "--method", "datm", "--ipc", "2", "--teacher", folder / "experts.ddset")
    done = run_command(*distil, *QUICK, "--set", "init=real", "--set", "threshold=9", "-o", folder / "datm.ddset")
    assert done.code == 0, done.err
    return folder


def refine(data: str, made: Path, matcher: str, output: Path, *more: str) -> Outcome:
    files = ("refine", made / "datm.ddset", "--data", data, "--teacher", made / "experts.ddset")
    options = ("--method", "dcpi", "--matcher", matcher, *QUICK, "--set", "threshold=9")
    return run_command(*files, *options, *more, "-o", output)


def test_datm_learns_features_of_images_that_stay(tiny: str, made: Path, tmp_path: Path) -> None:
    """The section says what learned it; images, soft labels and step size are those of the bundle."""
    outcome = refine(tiny, made, "datm", tmp_path / "out.ddset")
    assert outcome.code == 0, outcome.err
    before, after = Bundle.open(made / "datm.ddset"), Bundle.open(tmp_path / "out.ddset", verify=True)
    found = read_privileged(after, "feature")

    assert "students train on the bundle's learned soft labels" in outcome.err
    assert (found.form.arch, found.form.layer) == ("convnet-d1-w8-instance", 1)
    assert (found.parameters["mode"], found.parameters["matcher"]) == ("learned", "datm")
    assert found.parameters["lambda_task"] == 0.01
    for name in (IMAGES, *before.section("labels.soft").tensors, "student.lr"):
        assert torch.equal(before.tensor(name), after.tensor(name))
    assert 0 < after.manifest.history[-1]["metrics"]["movement"] < 0.1


def test_mtt_learns_attention_and_moves_images_when_told_to(tiny: str, made: Path, tmp_path: Path) -> None:
    """Soft labels of the old images are stale then, the step size is the one learned on; experts give first labels."""
    more = ("--labels", "attention", "--set", "tune_images=true", "--set", "lr_images=1000", "--set", "init=teacher")
    outcome = refine(tiny, made, "mtt", tmp_path / "out.ddset", *more)
    assert outcome.code == 0, outcome.err
    before, after = Bundle.open(made / "datm.ddset"), Bundle.open(tmp_path / "out.ddset", verify=True)

    assert "labels moved by" in outcome.err
    assert "for an epoch on all real images" not in outcome.err
    assert read_privileged(after, "attention").form.attention == "spatial"
    assert after.section("labels.soft").stale
    for name in (IMAGES, "student.lr"):
        assert not torch.equal(before.tensor(name), after.tensor(name))
