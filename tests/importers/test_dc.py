"""Results of DC, DSA and DM, and plain dictionaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddlabel.distilled import read_distilled

from .conftest import CONSTANTS, FACTS

SPACE = (*FACTS, *CONSTANTS, "--space", "normalised")


@pytest.fixture
def result(tmp_path: Path, units, labels) -> Path:
    """Two experiments with accuracies that NumPy made."""
    path = tmp_path / "res_DC_PETS_ConvNet_2ipc.pt"
    accuracies = [np.float64(0.4), np.float64(0.6)]
    data = [[units * 2 - 1, labels], [units * 4 - 2, labels]]
    torch.save({"data": data, "accs_all_exps": {"ConvNet": accuracies, "bad\x1b[31m": [0.5], "odd": ["x"]}}, path)
    return path


def test_the_last_experiment_is_taken_and_recorded_with_what_was_published(result: Path, units, imported) -> None:
    bundle = imported(result, *SPACE)
    metrics = bundle.manifest.history[0]["metrics"]

    assert torch.equal(read_distilled(bundle).images, units * 4 - 2)
    assert (metrics["experiment"], metrics["experiments"]) == (1, 2)
    assert metrics["published"] == {
        "ConvNet": {"accuracy": pytest.approx(0.5), "deviation": pytest.approx(0.1), "runs": 2}
    }


def test_another_experiment_can_be_chosen(result: Path, units, imported, refused) -> None:
    assert torch.equal(imported(result, *SPACE, "--set", "experiment=0").tensor("images.pixels"), units * 2 - 1)


def test_an_experiment_that_is_not_there_is_refused(result: Path, refused) -> None:
    assert "0 to 1" in refused(2, result, *SPACE, "--set", "experiment=2")


@pytest.mark.parametrize(
    "content", [{"data": []}, {"data": [[torch.zeros(1)]]}, [1], {"images": torch.zeros(1, 3, 2, 2)}]
)
def test_other_contents_are_refused(tmp_path: Path, content, refused) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    refused(3, path, *SPACE)


def test_a_plain_dict_must_be_explained(tmp_path: Path, units, labels, imported, refused) -> None:
    path = tmp_path / "plain.pt"
    torch.save({"images": units, "labels": labels, "lr": 0.02}, path)

    assert "look like --values units" in refused(2, path, *SPACE)
    bundle = imported(path, *SPACE, "--values", "units")
    mean = torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1)
    std = torch.tensor([0.2, 0.25, 0.3]).reshape(3, 1, 1)
    assert torch.allclose(bundle.tensor("images.pixels"), (units - mean) / std)
    assert float(bundle.tensor("student.lr")) == pytest.approx(0.02)


def test_floats_can_be_stored_as_pixels(tmp_path: Path, units, labels, imported) -> None:
    path = tmp_path / "plain.pt"
    torch.save({"images": units, "labels": labels}, path)
    bundle = imported(path, *SPACE, "--values", "units", "--pixels", "uint8")

    assert bundle.tensor("images.pixels").dtype == torch.uint8
    assert (bundle.tensor("images.pixels") / 255 - units).abs().max() <= 0.5 / 255 + 1e-6
    assert bundle.manifest.history[0]["metrics"]["clipped_fraction"] < 1e-3


@pytest.mark.parametrize("lr", [1e-60, 1e300, 10**400, torch.tensor(1e-60, dtype=torch.float64)])
def test_step_sizes_that_float32_does_not_hold_are_refused(tmp_path: Path, units, labels, refused, lr) -> None:
    path = tmp_path / "plain.pt"
    torch.save({"images": units, "labels": labels, "lr": lr}, path)

    assert "expected one number above 0 that float32 holds" in refused(3, path, *SPACE, "--values", "units")


def test_pixels_up_to_255_are_no_units(tmp_path: Path, units, labels, refused, imported) -> None:
    """Values that overshoot a little, as those of learned whitened images do, are taken."""
    path = tmp_path / "plain.pt"
    torch.save({"images": units * 255, "labels": labels}, path)
    assert "no pixels from 0 to 1; divide pixels" in refused(2, path, *SPACE, "--values", "units")
    torch.save({"images": units * 3 - 1, "labels": labels}, path)
    imported(path, *SPACE, "--values", "units")


def test_a_folder_with_one_result_is_taken(result: Path, refused, imported, tmp_path: Path, units) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    result.rename(folder / result.name)
    assert torch.equal(imported(folder, *SPACE).tensor("images.pixels"), units * 4 - 2)
    (folder / "res_other.pt").write_bytes((folder / result.name).read_bytes())
    assert "no known format" in refused(2, folder, *SPACE)
    assert "holds 2 files res_*.pt" in refused(3, folder, *SPACE, "--format", "dc")
