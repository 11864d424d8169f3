"""Descriptions that `ddlabel export` lays beside its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .test_folder import write_pictures
from .test_npz import described

EXPORTED = ["00000_ant", "00001_bee", "00002_cat", "00003_dog"]


def test_pictures_of_an_export_need_no_options(tmp_path: Path, units, labels, imported) -> None:
    root = write_pictures(tmp_path / "set", units, labels, EXPORTED)
    (root / "ddset-export.json").write_text(json.dumps(described()))
    bundle = imported(root)

    assert bundle.manifest.data["name"] == "pets"
    assert bundle.manifest.data["classes"] == ["ant", "bee", "cat", "dog"]
    assert bundle.manifest.data["space"]["std"] == [0.2, 0.25, 0.3]
    assert bundle.manifest.history[0]["config"]["facts"]["space"] == "ddset-export.json"


def test_stretched_contrast_is_undone(tmp_path: Path, units, labels, imported) -> None:
    root = write_pictures(tmp_path / "set", units, labels, EXPORTED)
    stretched = {"form": "viewable", "view": "contrast", "low": -0.5, "high": 1.5}
    (root / "ddset-export.json").write_text(json.dumps(described(images=stretched)))
    bundle = imported(root)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    wanted = ((units * 255).round() / 255 * 2 - 0.5 - mean) / std

    assert torch.allclose(bundle.tensor("images.pixels"), wanted, atol=1e-5)


def test_options_win_over_what_an_export_says(tmp_path: Path, units, labels, imported) -> None:
    root = write_pictures(tmp_path / "set", units, labels, EXPORTED)
    (root / "ddset-export.json").write_text(json.dumps(described()))
    bundle = imported(root, "--name", "mine", "--mirror", "yes", "--mean", "0,0,0", "--std", "1,1,1")

    assert (bundle.manifest.data["name"], bundle.manifest.data["flip"]) == ("mine", True)
    assert bundle.manifest.data["space"]["std"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "other"}, "'schema'"),
        ({"space": {"kind": "odd", "mean": [0.5], "std": [1]}}, "'space.kind'"),
        ({"space": {"kind": "normalised", "mean": [0.5] * 3, "std": [0, 1, 1]}}, "not positive"),
        ({"student_lr": -1}, "above 0"),
        ({"student_lr": 1e-60}, "above 0"),
        ({"student_lr": 10**400}, "a finite number"),
        ({"space": {"kind": "normalised", "mean": [10**400] * 3, "std": [1] * 3}}, "a finite number"),
        ({"space": {"kind": "normalised", "mean": [0.5] * 3, "std": [1e-320] * 3}}, "no finite images"),
        ({"space": {"kind": "normalised", "mean": [0.5] * 3, "std": [1, 1]}}, "3 means and 2 standard deviations"),
        ({"images": {"form": "viewable", "low": 0, "high": 1e308}}, "pictures from 0 to 1e+308"),
        ({"images": {"form": "viewable", "low": 10**400, "high": 1}}, "a finite number"),
        ({"classes": [{"name": name} for name in ("a", "", "b", "c")]}, "none empty"),
        ({"classes": [{"name": "ant"}]}, "'classes'"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path: Path, units, labels, refused, change, words: str) -> None:
    root = write_pictures(tmp_path / "set", units, labels, EXPORTED)
    (root / "ddset-export.json").write_text(json.dumps(described(**change)))

    assert words in refused(3, root)


def test_a_torch_file_has_its_description_beside_it(tmp_path: Path, units, labels, imported) -> None:
    path = tmp_path / "out.pt"
    torch.save({"data": [[units, labels]], "accs_all_exps": {}}, path)
    (tmp_path / "out.pt.ddset-export.json").write_text(json.dumps(described(images={"form": "float32"})))
    bundle = imported(path)

    assert torch.equal(bundle.tensor("images.pixels"), units)
    names = [source["name"] for source in bundle.manifest.history[0]["config"]["sources"]]
    assert names == ["out.pt", "out.pt.ddset-export.json"]


@pytest.mark.parametrize("change", ["altered", "swapped", "missing", "added"])
def test_an_export_whose_files_changed_is_refused(files, run_cli, refused, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "set"
    assert run_cli("export", files.base, "--format", "folder", "-o", folder).code == 0
    first, second = sorted(folder.glob("*/*.png"))[:2]
    if change == "altered":
        first.write_bytes(second.read_bytes())
    elif change == "swapped":
        first.rename(tmp_path / "kept")
        second.rename(first)
        (tmp_path / "kept").rename(second)
    elif change == "missing":
        first.unlink()
    else:
        (first.parent / "extra.png").write_bytes(first.read_bytes())
    words = {"missing": "is missing", "added": "is not of this export"}.get(change, "was changed after it was exported")

    assert words in refused(3, folder)
