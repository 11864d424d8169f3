"""`distill` through the command line and the files it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.data._dataset import load
from ddlabel.distilled import read_distilled


def distill(run_cli, tiny: str, path: Path, *more: str):
    return run_cli("distill", "--data", tiny, "--arch", "convnet-d1-w8", *more, "-o", path)


def test_selected_images_are_real_ones_bit_for_bit(run_cli, tiny: str, tmp_path: Path) -> None:
    """The recorded indices point at the stored pixels, in the training split."""
    outcome = distill(run_cli, tiny, tmp_path / "b.ddset", "--method", "random", "--ipc", "3")
    bundle = Bundle.open(tmp_path / "b.ddset", verify=True)
    indices = bundle.tensor("scores.selection.indices").long()
    train = load(tiny).train

    assert outcome.code == 0, outcome.err
    assert torch.equal(train.pixels[indices], bundle.tensor("images.pixels"))
    assert torch.equal(train.labels[indices], bundle.tensor("labels.hard").long())
    assert bundle.tensor("labels.hard").tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


@pytest.mark.parametrize("method", ["herding", "k-center"])
def test_methods_on_features_need_a_teacher(run_cli, files, tmp_path: Path, method: str) -> None:
    """Without one they are refused; with one they select."""
    without = distill(run_cli, files.data, tmp_path / "a.ddset", "--method", method)
    given = distill(
        run_cli, files.data, tmp_path / "b.ddset", "--method", method, "--ipc", "2", "--teacher", str(files.teacher)
    )
    history = Bundle.open(tmp_path / "b.ddset").manifest.history[-1]

    assert without.code == 2
    assert "expected --teacher FILE" in without.err
    assert given.code == 0, given.err
    assert [Bundle.open(files.teacher).content] == [item["content"] for item in history["inputs"]]


def test_dm_moves_images_towards_the_class_means(run_cli, tiny: str, tmp_path: Path) -> None:
    """The same command gives the same content; images are stored as 8-bit pixels, the cost of that recorded."""
    options = ("--method", "dm", "--ipc", "2", "--set", "steps=5", "--set", "batch_real=8")
    first = distill(run_cli, tiny, tmp_path / "a.ddset", *options)
    distill(run_cli, tiny, tmp_path / "b.ddset", *options)
    distill(run_cli, tiny, tmp_path / "c.ddset", *options, "--seed", "3")
    one, two, three = (Bundle.open(tmp_path / f"{name}.ddset") for name in "abc")
    entry = one.manifest.history[0]

    assert first.code == 0, first.err
    assert one.content == two.content != three.content
    assert torch.uint8 == one.tensor("images.pixels").dtype
    assert entry["config"]["options"]["steps"] == 5
    assert 0 <= entry["metrics"]["clipped_fraction"] < 0.5


def test_float_images_are_kept_exactly(run_cli, tiny: str, tmp_path: Path) -> None:
    """`--pixels float32` stores model-input values; 8-bit storage is their rounding."""
    options = ("--method", "dm", "--ipc", "1", "--set", "steps=2", "--set", "batch_real=8")
    distill(run_cli, tiny, tmp_path / "exact.ddset", *options, "--pixels", "float32")
    distill(run_cli, tiny, tmp_path / "small.ddset", *options)
    exact, small = (read_distilled(Bundle.open(tmp_path / f"{name}.ddset")) for name in ("exact", "small"))

    assert torch.equal(exact.space.to_pixels(exact.images), small.space.to_pixels(small.images))


def test_distillation_works_in_whitened_space(run_cli, tiny: str, tmp_path: Path) -> None:
    """ZCA bundles hold float images and their transform, and can be evaluated."""
    options = ("--method", "dm", "--ipc", "1", "--set", "steps=2", "--set", "batch_real=8", "--space", "zca")
    outcome = distill(run_cli, tiny, tmp_path / "z.ddset", *options)
    scored = run_cli(
        "evaluate", tmp_path / "z.ddset", "--data", tiny, "--arch", "convnet-d1-w8", "--epochs", "2", "--seeds", "1"
    )

    assert outcome.code == 0, outcome.err
    assert torch.float32 == Bundle.open(tmp_path / "z.ddset").tensor("images.pixels").dtype
    assert scored.code == 0, scored.err


@pytest.mark.fault(73)
def test_fault_73_more_images_than_a_class_has(run_cli, tiny: str, tmp_path: Path) -> None:
    """Exit 4, naming the class and both numbers; ipc 0 is a usage error."""
    many = distill(run_cli, tiny, tmp_path / "b.ddset", "--method", "random", "--ipc", "12")
    none = distill(run_cli, tiny, tmp_path / "b.ddset", "--method", "random", "--ipc", "0")

    assert (many.code, none.code) == (4, 2)
    assert "class '0' has 11 training images, --ipc asks for 12" in many.err


@pytest.mark.fault(71)
def test_fault_71_a_teacher_of_other_images_is_refused(run_cli, files, tmp_path: Path) -> None:
    """Exit 3, both sides named."""
    outcome = distill(run_cli, "digits", tmp_path / "b.ddset", "--method", "herding", "--teacher", str(files.teacher))

    assert outcome.code == 3
    assert str(files.teacher) in outcome.err
    assert "'digits'" in outcome.err


def test_method_options_are_checked_before_any_work(run_cli, tiny: str, tmp_path: Path) -> None:
    """All of them, with the nearest name."""
    outcome = distill(run_cli, tiny, tmp_path / "b.ddset", "--method", "dm", "--set", "step=5", "--set", "momentum=2")

    assert outcome.code == 2
    assert "unknown option 'step'; did you mean 'steps'?" in outcome.err
    assert "'momentum' is 2.0, expected a number >= 0 and < 1" in outcome.err
