"""`train-teacher` through the command line and the files it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.data._dataset import load
from ddlabel.teachers import Teacher
from ddlabel.training import accuracy


def train(run_cli, tiny: str, path: Path, *more: str):
    base = ["train-teacher", "--data", tiny, "--arch", "convnet-d1-w8-bn", "--epochs", "2", "--set", "batch=16"]
    return run_cli(*base, *more, "-o", path)


def test_chosen_epochs_are_kept_with_buffers_and_accuracies(run_cli, tiny: str, tmp_path: Path) -> None:
    """Batch-norm statistics travel with the parameters; epoch 0 is the initialisation."""
    outcome = train(run_cli, tiny, tmp_path / "t.ddset", "--keep", "0,2", "--experts", "2")
    teacher = Teacher(Bundle.open(tmp_path / "t.ddset", verify=True))

    assert (outcome.code, outcome.out) == (0, "")
    assert [(item.member, item.epoch) for item in teacher.checkpoints] == [(0, 0), (0, 2), (1, 0), (1, 2)]
    assert "teacher.0.2.blocks.0.norm.running_mean" in teacher.bundle.section("teacher.0.2").tensors
    assert {"validation", "test"} == set(teacher.checkpoints[0].accuracy)
    assert teacher.checkpoints[0].arch == "convnet-d1-w8-batch"


def test_recorded_accuracy_is_that_of_the_stored_net(run_cli, tiny: str, tmp_path: Path) -> None:
    """Loading a checkpoint and scoring it again gives the recorded number."""
    train(run_cli, tiny, tmp_path / "t.ddset")
    teacher = Teacher(Bundle.open(tmp_path / "t.ddset"))
    (checkpoint,) = teacher.checkpoints
    test = load(tiny).test

    assert checkpoint.accuracy["test"] == accuracy(
        teacher.net(checkpoint), test.pixels, test.labels, space=teacher.space
    )


def test_members_differ_and_repeat(run_cli, tiny: str, tmp_path: Path) -> None:
    """Each member has its own stream; the same command gives the same content, another seed another one."""
    train(run_cli, tiny, tmp_path / "a.ddset", "--experts", "2")
    train(run_cli, tiny, tmp_path / "b.ddset", "--experts", "2")
    train(run_cli, tiny, tmp_path / "c.ddset", "--experts", "2", "--seed", "1")
    first, second, third = (Bundle.open(tmp_path / f"{name}.ddset") for name in "abc")
    weights = [first.tensor(f"teacher.{member}.2.classifier.weight") for member in (0, 1)]

    assert first.content == second.content != third.content
    assert not torch.equal(*weights)


def test_a_whitened_teacher_carries_its_transform(run_cli, tiny: str, tmp_path: Path) -> None:
    """`--space zca` stores mean, matrix and inverse, and says so in `requires`."""
    outcome = train(run_cli, tiny, tmp_path / "t.ddset", "--space", "zca")
    bundle = Bundle.open(tmp_path / "t.ddset")

    assert outcome.code == 0, outcome.err
    assert "space.zca" in bundle.manifest.requires
    assert tuple(bundle.tensor("transform.zca.matrix").shape) == (192, 192)


def test_an_epoch_beyond_the_end_cannot_be_kept(run_cli, tiny: str, tmp_path: Path) -> None:
    """Refused before any training."""
    outcome = train(run_cli, tiny, tmp_path / "t.ddset", "--keep", "3")

    assert outcome.code == 2
    assert "names epoch 3, expected epochs from 0 to 2; raise --epochs" in outcome.err
    assert not (tmp_path / "t.ddset").exists()


@pytest.mark.fault(115)
def test_fault_115_a_diverging_run_names_step_value_and_option(run_cli, tiny: str, tmp_path: Path) -> None:
    """Exit 5, nothing written."""
    outcome = train(run_cli, tiny, tmp_path / "t.ddset", "--set", "lr=1e30")

    assert outcome.code == 5
    assert "training loss is" in outcome.err
    assert "lower --set lr (now 1e+30)" in outcome.err
    assert not (tmp_path / "t.ddset").exists()


@pytest.mark.parametrize("unknown", ["epoch", "0", "7"])
def test_an_unknown_checkpoint_lists_those_kept(files, unknown: str) -> None:
    """What can be asked for is in the message."""
    from ddlabel.errors import UsageError

    with pytest.raises(UsageError, match=r"'last', 'all' or one of the kept epochs 1, 4"):
        Teacher(Bundle.open(files.teacher)).select(unknown)
