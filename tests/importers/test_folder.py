"""Pictures in class folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import CLASSES, CONSTANTS, FACTS, pixels_of


def write_pictures(root: Path, units, labels, names, suffix: str = ".png") -> Path:
    for index, (pixels, label) in enumerate(zip(pixels_of(units), labels.tolist(), strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index:03d}{suffix}")
    return root


@pytest.mark.parametrize("pattern", ["{:05d}", "new{:03d}", "{}"])
def test_index_folders_are_class_numbers(tmp_path: Path, units, labels, imported, pattern: str) -> None:
    root = write_pictures(tmp_path / "set", units, labels, [pattern.format(label) for label in range(4)])
    bundle = imported(root, *FACTS, *CONSTANTS)

    assert np.array_equal(bundle.tensor("images.pixels").permute(0, 2, 3, 1).numpy(), pixels_of(units))
    assert bundle.tensor("labels.hard").tolist() == labels.tolist()
    assert bundle.manifest.history[0]["config"]["values"] == "pixels"
    assert len(bundle.manifest.history[0]["config"]["sources"]) == 8


def test_named_folders_are_classes_and_their_order_is_that_of_the_names(
    tmp_path: Path, units, labels, imported
) -> None:
    names = ["n03", "n01", "n02", "n00"]
    root = write_pictures(tmp_path / "set", units, labels, names)
    bundle = imported(root, "--name", "x", "--mirror", "no", "--space", "imagenet")

    assert bundle.manifest.data["classes"] == ["n00", "n01", "n02", "n03"]
    assert np.array_equal(bundle.tensor("images.pixels")[:2].permute(0, 2, 3, 1).numpy(), pixels_of(units)[6:])
    assert bundle.manifest.data["space"]["mean"] == [0.485, 0.456, 0.406]


def test_names_are_looked_up_in_the_classes_that_are_given(tmp_path: Path, units, labels, imported, refused) -> None:
    """Same names: their given order. Other names: new names in the sorted order. Some of each: refused."""
    root = write_pictures(tmp_path / "set", units, labels, ["ant", "bee", "cat", "dog"])
    more = ("--name", "x", "--mirror", "no", *CONSTANTS)
    turned = imported(root, *more, "--classes", "dog,cat,bee,ant")
    assert np.array_equal(turned.tensor("images.pixels")[:2].permute(0, 2, 3, 1).numpy(), pixels_of(units)[6:])
    renamed = imported(root, *more, "--classes", "A,B,C,D")
    assert renamed.manifest.data["classes"] == ["A", "B", "C", "D"]
    assert renamed.tensor("labels.hard").tolist() == labels.tolist()


def test_names_of_another_set_are_refused(tmp_path: Path, units, labels, refused) -> None:
    root = write_pictures(tmp_path / "set", units, labels, ["ant", "bee", "cat", "eel"])

    assert "'eel'" in refused(3, root, *FACTS, *CONSTANTS)


def test_class_names_may_come_from_a_file(tmp_path: Path, units, labels, imported, refused) -> None:
    root = write_pictures(tmp_path / "set", units, labels, ["0", "1", "2", "3"])
    (tmp_path / "names.txt").write_text("a, b\nc\nd\ne\n")
    more = (root, "--name", "x", "--mirror", "no", *CONSTANTS, "--classes")

    assert "neither several names nor a text file" in refused(2, *more, tmp_path / "missing.txt")
    os.mkfifo(tmp_path / "fifo")
    for odd in (tmp_path / "fifo", "/dev/zero"):
        assert "not a plain file" in refused(2, *more, odd)
    bundle = imported(*more, tmp_path / "names.txt")
    assert bundle.manifest.data["classes"] == ["a, b", "c", "d", "e"]
    assert str(tmp_path).encode() not in bundle.manifest.to_json()


def test_hostile_folders_are_refused(tmp_path: Path, units, labels, refused) -> None:
    root = write_pictures(tmp_path / "set", units, labels, ["0", "1", "2", "3"])
    given = (root, "--format", "folder", *FACTS, *CONSTANTS)
    broken = root / "0" / "bro\x1b[31mken.png"
    broken.write_bytes(b"no picture")
    error = refused(4, *given)
    assert "not a readable picture" in error
    assert "\x1b" not in error
    broken.unlink()
    (root / "00").mkdir()
    assert "same class number" in refused(3, *given)
    (root / "00").rmdir()
    (root / "0" / "folder.png").mkdir()
    assert "a folder, expected a plain file" in refused(3, *given)
    (root / "0" / "folder.png").rmdir()
    (root / "0" / "link.png").symlink_to("/etc/passwd")
    assert "symbolic link" in refused(3, *given)
    (root / "0" / "link.png").unlink()
    Image.new("RGB", (9, 9)).save(root / "0" / "big.png")
    assert "expected one size" in refused(3, *given)


def test_jpeg_and_grey_pictures_are_decoded(tmp_path: Path, units, labels, imported) -> None:
    root = write_pictures(tmp_path / "set", units, labels, ["0", "1", "2", "3"], ".jpg")
    Image.new("L", (8, 8), 77).save(root / "0" / "zz.png")
    bundle = imported(root, *FACTS, *CONSTANTS)

    assert bundle.tensor("images.pixels")[2].unique().tolist() == [77]
    assert bundle.tensor("labels.hard").tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_a_folder_without_pictures_is_no_format(tmp_path: Path, refused) -> None:
    (tmp_path / "empty").mkdir()

    assert "no known format" in refused(2, tmp_path / "empty")
    assert "no pictures" in refused(3, tmp_path / "empty", "--format", "folder")
    assert "no such" in refused(3, tmp_path / "nowhere", "--format", "folder")


def test_facts_of_pixels_are_still_needed(tmp_path: Path, units, labels, refused) -> None:
    root = write_pictures(tmp_path / "set", units, labels, ["0", "1", "2", "3"])

    assert "--space imagenet" in refused(2, root, *FACTS)
    assert "drop it" in refused(2, root, *FACTS, *CONSTANTS, "--values", "units")
    assert "3 channels" in refused(2, root, *FACTS, "--mean", "0.5", "--std", "0.5")
    assert CLASSES.count(",") == 3


def test_a_class_may_be_empty_but_one_class_is_none(tmp_path: Path, units, labels, imported, refused) -> None:
    root = write_pictures(tmp_path / "set", units, labels, ["b", "c", "d", "e"])
    (root / "a").mkdir()
    more = ("--name", "x", "--mirror", "no", *CONSTANTS)
    assert imported(root, *more).manifest.data["classes"] == ["a", "b", "c", "d", "e"]
    lonely = write_pictures(tmp_path / "lonely", units, labels * 0, ["cat"])
    assert "1 class names, expected 2 or more" in refused(3, lonely, *more)


@pytest.mark.parametrize("std", ["1e-300", "1e-39"])
def test_constants_that_float32_does_not_hold_are_refused(tmp_path: Path, units, labels, refused, std: str) -> None:
    root = write_pictures(tmp_path / "set", units, labels, ["0", "1", "2", "3"])
    assert "no finite images" in refused(2, root, *FACTS, "--mean", "0.5,0.4,0.3", "--std", f"0.2,{std},0.3")
