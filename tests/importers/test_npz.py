"""Arrays of NumPy, anybody's and those of `ddlabel export`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddlabel.labels._labels import read_labels

from .conftest import CONSTANTS, FACTS, pixels_of


def described(**changes) -> dict:
    """What `ddlabel export` says of the set of these tests."""
    images = {"count": 8, "form": "exact8"} | changes.pop("images", {})
    return {
        "schema": "ddlabel.export",
        "version": 1,
        "format": "npz",
        "data": {"name": "pets", "flip": False},
        "space": {"kind": "normalised", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
        "classes": [{"name": name} for name in ("ant", "bee", "cat", "dog")],
        "images": images,
        "labels": {"hard": {}},
        "student_lr": None,
    } | changes


def save(path: Path, **arrays) -> Path:
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_pixels_are_read_in_either_order_of_axes(tmp_path: Path, units, labels, imported, layout: str) -> None:
    pixels = pixels_of(units)
    images = pixels if layout == "nhwc" else pixels.transpose(0, 3, 1, 2)
    bundle = imported(save(tmp_path / "x.npz", images=images, labels=labels.numpy()), *FACTS, *CONSTANTS)

    assert np.array_equal(bundle.tensor("images.pixels").permute(0, 2, 3, 1).numpy(), pixels)


def test_grey_images_have_no_axis_of_channels(tmp_path: Path, units, labels, imported) -> None:
    path = save(tmp_path / "x.npz", images=pixels_of(units)[..., 0], labels=labels.numpy().astype(">i4"))
    bundle = imported(path, *FACTS, "--mean", "0.5", "--std", "0.5")

    assert tuple(bundle.tensor("images.pixels").shape) == (8, 1, 8, 8)
    assert bundle.tensor("labels.hard").tolist() == labels.tolist()


def test_soft_labels_and_a_step_size_are_read(tmp_path: Path, units, labels, imported, refused) -> None:
    soft = torch.rand(8, 4).softmax(dim=1).numpy().astype(np.float64)
    arrays = {"images": units.numpy(), "labels": labels.numpy(), "soft_labels": soft, "lr": np.float64(0.03)}
    path = save(tmp_path / "x.npz", **arrays)
    error = refused(2, path, *FACTS, *CONSTANTS)

    assert "--domain prob" in error
    assert "--values units" in error
    bundle = imported(path, *FACTS, *CONSTANTS, "--values", "units", "--domain", "prob")
    found = read_labels(bundle, "soft")
    assert np.allclose(found.values[:, 0].numpy(), soft, atol=1e-7)
    assert found.domain == "prob"
    assert "learned" not in found.parameters
    assert float(bundle.tensor("student.lr")) == pytest.approx(0.03)


def test_hostile_arrays_are_refused(tmp_path: Path, units, labels, refused) -> None:
    pixels, hard = pixels_of(units), labels.numpy()
    path = tmp_path / "x.npz"

    def words(code: int, *more: str, **arrays) -> str:
        save(path, **arrays)
        return refused(code, path, *FACTS, *CONSTANTS, *more)

    assert "unsafe pickle refused" in words(3, images=pixels, labels=np.array([{}] * 8, dtype=object))
    assert "no array 'labels'" in words(3, images=pixels)
    assert "no array 'images'" in words(3, labels=hard)
    assert "complex" in words(3, images=pixels.astype(complex), labels=hard)
    assert "3 or 4 axes" in words(3, images=pixels[0, 0], labels=hard)
    assert "8 images and 7 labels" in words(3, images=pixels, labels=hard[:7])
    assert "layout=nhwc" in words(3, images=pixels[:, :3], labels=hard)
    assert "expected floats of shape (n, k)" in words(3, images=pixels, labels=hard, soft_labels=hard)


def test_bombs_and_broken_files_are_refused(tmp_path: Path, refused) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as member:
        for _part in range(65):
            member.write(bytes(2**20))
    assert "says it holds" in refused(3, path, *FACTS, *CONSTANTS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "not a readable .npz" in refused(3, path, *FACTS, *CONSTANTS)


def test_an_export_needs_no_options_and_keeps_its_whitening(tmp_path: Path, units, labels, imported, refused) -> None:
    matrix = torch.eye(192) * 2
    space = {"kind": "zca", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    soft = torch.randn(8, 4)
    text = json.dumps(
        described(space=space, labels={"soft": {"domain": "logit", "parameters": {"learned": True}}}, student_lr=0.5)
    )
    arrays = {
        "images_float": units.numpy(),
        "labels": labels.numpy(),
        "labels_soft": soft[:, None].numpy(),
        "labels_odd": np.zeros((8, 9, 4)),
        "zca_mean": np.full((1, 192), 0.25, np.float32),
        "zca_matrix": matrix.numpy(),
        "zca_inverse": (matrix / 4).numpy(),
        "zca_epsilon": np.array(0.1),
        "ddset_export": np.array(text),
    }
    bundle = imported(save(tmp_path / "x.npz", **arrays))

    assert torch.equal(bundle.tensor("images.pixels"), units)
    assert torch.equal(bundle.tensor("transform.zca.matrix"), matrix)
    assert bundle.manifest.data["space"]["kind"] == "zca"
    assert bundle.manifest.data["flip"] is False
    assert float(bundle.tensor("student.lr")) == 0.5
    labelled = read_labels(bundle, "soft")
    assert torch.equal(labelled.values[:, 0], soft)
    assert labelled.parameters["learned"] is True
    arrays["zca_matrix"] = np.eye(5, dtype=np.float32)
    assert "whitening has shapes" in refused(3, save(tmp_path / "y.npz", **arrays))
