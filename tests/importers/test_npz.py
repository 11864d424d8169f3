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

CODEC = {"name": "f32", "parameters": {}}


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


def header(text: str, values: bytes = b"") -> bytes:
    """A member of a .npz file with that header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + values


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (header("{'descr': '<i8', 'fortran_order': (\n"), "unusual header"),
        (b"hello, this is no array", "no array of NumPy"),
        (b"", "no array of NumPy"),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }\n"), "does not fit"),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999999,), }\n"), "unusual header"),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (-4,), }\n", bytes(32)), "unusual header"),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (4,), }\n", bytes(31)), "does not fit"),
        (header("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (4,), }\n"), "unusual header"),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (" + "1," * 4000 + "), }\n"), "header of"),
        (header("(" * 3000), "unusual header"),
        (header("{'descr': '<f9', 'fortran_order': False, 'shape': (4,), }\n"), "unknown type"),
    ],
)
def test_headers_are_matched_and_never_evaluated(tmp_path: Path, units, refused, member: bytes, words: str) -> None:
    path = save(tmp_path / "x.npz", images=pixels_of(units))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.npy", member)

    assert words in refused(3, path, *FACTS, *CONSTANTS)


def test_encrypted_members_are_refused(tmp_path: Path, units, labels, refused) -> None:
    path = save(tmp_path / "x.npz", images=pixels_of(units), labels=labels.numpy())
    data = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(magic)
        data[start + place] |= 1
    path.write_bytes(data)

    assert "encrypted" in refused(3, path, *FACTS, *CONSTANTS)


def test_arrays_in_fortran_order_and_of_half_precision_are_read(tmp_path: Path, units, labels, imported) -> None:
    images = np.asfortranarray(units.numpy().astype(np.float16))
    path = save(tmp_path / "x.npz", images=images, labels=labels.numpy())
    bundle = imported(path, *FACTS, *CONSTANTS, "--values", "space", "--space", "normalised")

    assert torch.equal(bundle.tensor("images.pixels"), units.half().float())


@pytest.mark.parametrize(
    "change",
    [
        {"zca_epsilon": np.zeros(3)},
        {"zca_matrix": np.zeros(()), "zca_mean": np.zeros(()), "zca_inverse": np.zeros(())},
        {"zca_epsilon": np.array(0.0)},
    ],
)
def test_an_impossible_whitening_is_refused(tmp_path: Path, units, labels, refused, change) -> None:
    eye = np.eye(192, dtype=np.float32)
    zca = {"zca_mean": eye[:1], "zca_matrix": eye, "zca_inverse": eye, "zca_epsilon": np.array(0.1)} | change
    path = save(tmp_path / "x.npz", images_float=units.numpy(), labels=labels.numpy(), **zca)

    assert "its whitening has shapes" in refused(3, path, *FACTS, *CONSTANTS, "--space", "zca")


def test_labels_that_are_not_taken_are_named(tmp_path: Path, units, labels, run_cli) -> None:
    path = save(tmp_path / "x.npz", images=pixels_of(units), labels=labels.numpy(), labels_mine=np.zeros((8, 2)))
    outcome = run_cli("import", path, *FACTS, *CONSTANTS, "-o", tmp_path / "x.ddset")

    assert outcome.code == 0
    assert "note: x.npz: left out: labels_mine" in outcome.err


def test_two_soft_labels_are_refused(tmp_path: Path, units, labels, refused) -> None:
    soft = torch.rand(8, 4).numpy()
    path = save(tmp_path / "x.npz", images=pixels_of(units), labels=soft, soft_labels=soft)
    torch.save({"images": units, "labels": torch.rand(8, 4), "soft_labels": torch.rand(8, 4)}, tmp_path / "x.pt")

    assert "both 'labels' and 'soft_labels' hold soft labels" in refused(3, path, *FACTS, *CONSTANTS)
    given = (tmp_path / "x.pt", *FACTS, *CONSTANTS, "--values", "units")
    assert "both 'labels' and 'soft_labels' hold soft labels" in refused(3, *given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"dense": {"in": "labels_dense", "domain": "logit", "shape": [8, 9, 4]}}}, "not there"),
        ({"labels": {"soft": {"in": "labels_soft", "shape": [8, 1, 4]}}}, "without their domain"),
        ({"labels": {"soft": {"in": "labels_soft", "domain": "logit", "shape": [8, 1, 5]}}}, "is not the"),
        ({"labels": {"soft": {"in": "labels_soft", "domain": "feature", "shape": [8, 1, 4]}}}, "are none of 8 images"),
        ({"labels": {"soft": {"domain": "prob", "shape": [8, 1, 4], "codec": CODEC}}}, "no negative value"),
        ({"labels": {"dense": {"in": "labels_soft", "domain": "logit", "codec": CODEC}}}, "make 25; export it again"),
        ({"labels": {"fkd": {"in": "labels_soft", "domain": "logit", "codec": CODEC}}}, "views"),
        ({"labels": {"feature": {"in": "labels_soft", "domain": "feature", "shape": [8, 1, 4, 1, 1]}}}, "does not say"),
        ({"images": {"count": 9}}, "of 9 images, there are 8"),
        ({"version": 2}, "expected at most 1"),
    ],
)
def test_labels_that_are_not_as_described_are_refused(tmp_path: Path, units, labels, refused, change, words) -> None:
    arrays = {"images": pixels_of(units), "labels": labels.numpy(), "labels_soft": -np.ones((8, 1, 4), np.float32)}
    path = save(tmp_path / "x.npz", **arrays, ddset_export=np.array(json.dumps(described(**change))))

    assert words in refused(3, path)


def test_log_probabilities_stay_such_and_domains_of_others_are_kept(tmp_path: Path, units, labels, imported) -> None:
    soft = torch.randn(8, 1, 4).log_softmax(dim=2)
    said = {"soft": {"in": "labels_soft", "domain": "logprob", "shape": [8, 1, 4]}}
    arrays = {"images": pixels_of(units), "labels": labels.numpy(), "labels_soft": soft.numpy()}
    bundle = imported(save(tmp_path / "x.npz", **arrays, ddset_export=np.array(json.dumps(described(labels=said)))))

    assert read_labels(bundle, "soft").domain == "logprob"
    assert torch.equal(read_labels(bundle, "soft").values, soft)
    assert bundle.manifest.history[0]["config"]["facts"]["domain"] == "x.npz"


def test_labels_that_contradict_each_other_are_told(tmp_path: Path, units, labels, run_cli) -> None:
    soft = torch.eye(4)[(labels + 1) % 4].numpy()
    soft[:2] = torch.eye(4)[labels[:2]]
    path = save(tmp_path / "x.npz", images=pixels_of(units), labels=labels.numpy(), soft_labels=soft)
    outcome = run_cli("import", path, *FACTS, *CONSTANTS, "--domain", "prob", "-o", tmp_path / "x.ddset")

    assert outcome.code == 0
    assert "of 6 of 8 images (75%) the largest soft label is of another class" in outcome.err


def test_messages_name_what_is_there(tmp_path: Path, units, labels, refused) -> None:
    images = pixels_of(units)
    assert "(known: images)" in refused(3, save(tmp_path / "x.npz", images=images), *FACTS, *CONSTANTS)
    single = save(tmp_path / "x.npz", images=images, labels=np.array(1))
    assert "a single int64 where labels belong" in refused(3, single, *FACTS, *CONSTANTS)
    wide = save(tmp_path / "x.npz", images=images.astype(np.uint16), labels=labels.numpy())
    assert "'images' holds uint16" in refused(3, wide, *FACTS, *CONSTANTS)
