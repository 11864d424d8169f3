"""Published sets as their authors' code wrote them (DC, MTT, PAD)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ddlabel.labels._labels import read_labels
from ddlabel.preprocess import read_space

pytestmark = [
    pytest.mark.real_images,
    pytest.mark.skipif(
        "DDLABEL_TEST_DATA" not in os.environ, reason="DDLABEL_TEST_DATA names no folder of real images"
    ),
]
FOREIGN = Path(os.environ.get("DDLABEL_TEST_DATA", "")) / "foreign"
CIFAR = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
DIGITS = ("--name", "mnist", "--classes", "0,1,2,3,4,5,6,7,8,9", "--mirror", "no", "--constants", "mnist")


def test_dc_is_normalised_with_hard_labels_and_published_accuracies(imported) -> None:
    path = FOREIGN / "dc-cifar10-ipc10" / "res_DC_CIFAR10_ConvNet_10ipc.pt"
    known = ("--name", "cifar10", "--classes", CIFAR, "--mirror", "yes", "--constants", "cifar10")
    bundle = imported(path, *known, "--space", "normalised")
    units = read_space(bundle).decode(bundle.tensor("images.pixels"))
    published = bundle.manifest.history[0]["metrics"]["published"]["ConvNet"]

    assert bundle.tensor("labels.hard").tolist() == torch.arange(10).repeat_interleave(10).tolist()
    assert published["runs"] == 50
    assert published["accuracy"] == pytest.approx(0.452284, abs=1e-6)
    assert units.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.4979, 0.4850, 0.4453], abs=1e-3)
    assert {"images", "labels.hard"} == {section.name for section in bundle.sections()}


def test_pad_has_learned_logits_and_a_step_size(imported, refused) -> None:
    folder = FOREIGN / "pad-mnist-ipc10"
    bundle = imported(folder / "images_zca_10.pt", *DIGITS)
    soft = read_labels(bundle, "soft")
    units = read_space(bundle).decode(bundle.tensor("images.pixels"))

    assert (soft.domain, soft.parameters["learned"]) == ("logit", True)
    assert (float(soft.values.min()), float(soft.values.max())) == pytest.approx((-6.395, 8.048), abs=1e-3)
    assert float(bundle.tensor("student.lr")) == pytest.approx(0.0127827, abs=1e-6)
    assert bundle.tensor("labels.hard").tolist() == torch.arange(10).repeat_interleave(10).tolist()
    assert (float(units.min()), float(units.max())) == pytest.approx((-0.004, 1.004), abs=1e-3)
    error = refused(2, folder, *DIGITS)
    assert "look ZCA-whitened: --space zca --data mnist" in error


def test_mtt_is_whitened(imported, refused) -> None:
    """Its un-whitened twin alone needs no training images."""
    folder = FOREIGN / "mtt-cifar10-ipc10"
    known = ("--name", "cifar10", "--classes", CIFAR, "--mirror", "yes", "--constants", "cifar10")

    assert "look ZCA-whitened: --space zca --data cifar10" in refused(2, folder)
    assert "give --data SPEC" in refused(2, folder, *known, "--space", "zca")
    bundle = imported(folder / "images_zca_100.pt", *known)
    units = read_space(bundle).decode(bundle.tensor("images.pixels"))
    assert (float(units.min()), float(units.max())) == pytest.approx((-0.948, 1.832), abs=1e-3)
    assert not bundle.has("student.lr")


@pytest.mark.slow
def test_mtt_is_what_its_pictures_show_under_our_whitening(imported) -> None:
    """`images_zca_*` is the un-whitened picture of `images_*`, up to the JPEG copy of the training images."""
    data = f"folder:{os.environ['DDLABEL_TEST_DATA']}/cifar10"
    folder = FOREIGN / "mtt-cifar10-ipc10"
    bundle = imported(folder / "images_100.pt", "--data", data, "--space", "zca")

    assert bundle.manifest.history[0]["metrics"]["twin_rmse"] < 0.004
    assert bundle.manifest.data["classes"] == CIFAR.split(",")
