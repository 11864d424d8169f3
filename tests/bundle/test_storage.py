"""The storage report against file sizes, the published tables it reproduces (labels.md 4.2), and `zipfile`."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddlabel.bundle import Bundle, NewSection, Packed, RawTensor
from ddlabel.storage import equal_ipc, report, zip_bytes, zip_bytes_of

from .forging import DATA, hard_section, images_section, make_distilled, stage_record, teacher_section


def record(name: str, kind: str, shape: list[int], stored: int, **more: Any) -> dict[str, Any]:
    """A section table entry of one tensor."""
    tensor = {"dtype": "U8", "shape": shape, "bytes": stored, "sha256": "0" * 64}
    return {"name": name, "kind": kind, "parameters": {}, "tensors": {f"{name}.x": tensor}, **more}


def table(size: int, classes: int, grid: int, *, count: int = 10, channels: int = 3) -> list[dict[str, Any]]:
    """Images, hard labels and float32 dense labels of a data set."""
    pixels = count * channels * size * size
    views = grid * grid
    return [
        record("images", "images", [count, channels, size, size], pixels),
        record("labels.hard", "labels", [count], count, role="hard", views=1),
        record(
            "labels.dense", "labels", [count, views, classes], 4 * count * views * classes, role="dense", views=views
        ),
    ]


def summary(sections: list[dict[str, Any]], classes: int | None = 2, **container: int) -> dict[str, Any]:
    return report(sections, classes, **({"header": 64, "manifest": 128, "padding": 0} | container))


def random_bundle(choice: random.Random) -> Bundle:
    """Images, labels and anything else, of random sizes, some of it packed."""
    count = choice.randint(1, 40)
    sections = [images_section(count), hard_section(count)]
    for index in range(choice.randint(0, 6)):
        name = choice.choice(["teacher.0", "scores.a", "novel.b", "trajectory.c", "student.d"]) + f".{index}"
        tensors = {}
        for number in range(choice.randint(1, 5)):
            data = choice.randbytes(choice.randint(0, 300)) if choice.random() < 0.5 else bytes(choice.randint(0, 3000))
            raw = RawTensor("U8", (len(data),), data)
            tensors[f"{name}.{number}"] = Packed(raw) if choice.random() < 0.5 else raw
        sections.append(
            NewSection(name, name.split(".")[0], tensors, parameters={"note": "x" * choice.randint(0, 500)})
        )
    choice.shuffle(sections)
    return Bundle.create("distilled", DATA, stage_record(), sections)


def test_the_total_is_the_file_size_exactly(tmp_path: Path) -> None:
    """Over many random bundles: parts add up to the total, and the total is what the file system says."""
    choice = random.Random(20)
    for index in range(60):
        path = tmp_path / f"{index}.ddset"
        bundle = random_bundle(choice)
        if choice.random() < 0.3:
            bundle = bundle.with_stage(stage_record("refine"), add=[teacher_section()])
        bundle.save(path, durable=False)
        storage = Bundle.open(path).manifest.storage
        parts = sum(storage["container"].values()) + sum(entry["stored"] for entry in storage["sections"].values())

        assert path.stat().st_size == storage["total"] == parts
        assert storage == bundle.manifest.storage


@pytest.mark.parametrize(
    ("size", "classes", "grid", "percent"),
    [
        (128, 10, 3, 0.7),
        (128, 10, 5, 2.0),
        (128, 10, 7, 4.0),
        (128, 10, 9, 6.6),
        (32, 10, 3, 11.7),
        (32, 10, 5, 32.6),
        (32, 10, 7, 63.8),
        (32, 100, 3, 117.0),
        (32, 100, 5, 326.0),
        (32, 100, 7, 638.0),
        (64, 200, 5, 163.0),
        (64, 1000, 5, 814.0),
        (128, 1000, 5, 203.0),
        (224, 1000, 7, 130.0),
    ],
    ids=lambda value: str(value),
)
def test_raw_overhead_is_that_of_the_published_tables(size: int, classes: int, grid: int, percent: float) -> None:
    """float32 dense labels over raw uint8 images, as recomputed from LADD."""
    overhead = summary(table(size, classes, grid), classes)["overhead"]["raw"]

    assert round(100 * overhead, 1 if percent < 100 else 0) == percent


def test_raw_references_of_each_kind() -> None:
    """uint8 per pixel, one-hot float32 per hard label, float32 per view and class; other sections as they are."""
    images = record("images", "images", [10, 3, 8, 8], 4 * 1920, range="float32")
    sections = [images, *table(8, 5, 3)[1:], record("teacher.0.1", "teacher", [7], 7)]
    storage = summary(sections, 5)
    raw = {name: entry["raw"] for name, entry in storage["sections"].items()}

    assert raw == {"images": 1920, "labels.hard": 200, "labels.dense": 10 * 9 * 5 * 4, "teacher.0.1": 7}
    assert storage["images"] == {"raw": 1920, "stored": 7680}
    assert storage["labels"] == {"hard": {"raw": 200, "stored": 10}, "dense": {"raw": 1800, "stored": 1800}}
    assert storage["overhead"]["stored"] == 1800 / 7680


def test_packed_labels_count_before_and_after_compression() -> None:
    """Raw by the array's shape, stored by the stream's bytes."""
    dense = record("labels.dense", "labels", [64], 64, role="dense", views=9)
    dense["tensors"]["labels.dense.x"]["packed"] = {"shape": [10, 9, 5], "bytes": 450}
    storage = summary([*table(8, 5, 3)[:2], dense], 5)

    assert storage["labels"]["dense"] == {"raw": 1800, "stored": 64}
    assert storage["bits_per_view"]["labels.dense"] == 8 * 64 / 90


def test_bits_per_view() -> None:
    """Stored bits over images times views."""
    bits = summary(table(32, 10, 5), 10)["bits_per_view"]

    assert bits == {"labels.hard": 8.0, "labels.dense": 320.0}


def test_equivalent_ipc_of_plain_images_is_their_ipc() -> None:
    """Four images of two classes and nothing else."""
    assert make_distilled(rich=False).manifest.storage["equivalent_ipc"] == 2.0


def test_equivalent_ipc_grows_with_what_labels_cost() -> None:
    """Dense labels of half the images' bytes buy half an image per image; teachers, states and scores buy none."""
    plain = table(8, 5, 3)[:2]
    spent = 10 * 192 + 10
    half = record("labels.dense", "labels", [10, 9, 5], spent // 2, role="dense", views=9)
    others = [record("teacher.0.1", "teacher", [9], 9), record("scores.a", "scores", [9], 9)]
    states = [record("state.a", "state", [9], 9), record("trajectory.0", "trajectory", [9], 9)]

    assert summary(plain, 5)["equivalent_ipc"] == 2.0
    assert summary([*plain, half], 5)["equivalent_ipc"] == 3.0
    assert summary([*plain, half, *others, *states], 5)["equivalent_ipc"] == 3.0


def test_what_cannot_be_said_is_null() -> None:
    """No images, no classes, no rich labels, no measured zip."""
    nothing = {"raw": None, "stored": None, "ladd_zip": None}

    assert nothing == summary([record("teacher.0.1", "teacher", [9], 9)])["overhead"]
    assert nothing == summary(table(8, 5, 3)[:2])["overhead"]
    assert summary([record("teacher.0.1", "teacher", [9], 9)])["equivalent_ipc"] is None
    assert summary(table(8, 5, 3), None)["equivalent_ipc"] is None
    assert summary(table(8, 5, 3, count=0), 5)["equivalent_ipc"] is None
    assert summary(table(8, 5, 3), 5)["overhead"]["ladd_zip"] is None


@pytest.mark.parametrize("missing", [0, 1, 2], ids=["images", "hard labels", "dense labels"])
def test_zip_rule_needs_every_measure(missing: int) -> None:
    """A zip of images and hard labels, and one with richer labels; each part measured by its stage."""
    sections = table(8, 5, 3)
    for section, size in zip(sections, (900, 100, 50), strict=True):
        section["zip_bytes"] = size
    complete = summary(sections, 5)["overhead"]["ladd_zip"]
    del sections[missing]["zip_bytes"]

    assert complete == 0.05
    assert summary(sections, 5)["overhead"]["ladd_zip"] is None


def test_measured_zips_travel_with_their_section() -> None:
    """`zip_bytes` is in the manifest, and no part of the content's identity."""
    images, hard = images_section(), hard_section()
    with_zip = NewSection("images", "images", images.tensors, range="uint8", zip_bytes=70)
    bundle = Bundle.create("distilled", DATA, stage_record(), [with_zip, hard])

    assert bundle.section("images").record["zip_bytes"] == 70
    assert make_distilled(rich=False).content == bundle.content


def test_zip_bytes_are_those_of_a_zip_file() -> None:
    """Against `zipfile`: deflate level 6 per member; zlib's own header and checksum are 6 bytes."""
    choice = random.Random(0)
    parts = [choice.randbytes(5000), bytes(5000), b"abc" * 999, b""]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for index, part in enumerate(parts):
            archive.writestr(str(index), part)
        deflated = sum(member.compress_size for member in archive.infolist())

    assert deflated + 6 * len(parts) == zip_bytes(parts)
    assert [zip_bytes([part]) for part in parts] == [
        zip_bytes_of(part[start : start + 100] for start in range(0, len(part), 100)) for part in parts
    ]
    assert zip_bytes([]) == 0


def test_zip_rule_gives_the_published_range() -> None:
    """LADD at 128 px, 10 classes, 5 x 5 views: 2.5 % in the paper, 1.9 to 2.7 % depending on the images.

    Images of uniform noise, which do not deflate, are the low end (1.91 %).
    """
    choice = np.random.default_rng(0)
    pixels = choice.integers(0, 256, (50, 3, 128, 128), dtype=np.uint8)
    logits = choice.normal(0, 3, (50, 25, 10))
    soft = (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)).astype("<f4")
    one_hot = np.eye(10, dtype="<f4")[np.arange(50) % 10]
    sections = table(128, 10, 5, count=50)
    for section, array in zip(sections, (pixels, one_hot, soft), strict=True):
        section["zip_bytes"] = zip_bytes([array.tobytes()])

    assert 0.018 <= summary(sections, 10)["overhead"]["ladd_zip"] <= 0.027


def test_stored_augmentation_state_is_counted() -> None:
    """Draws that no seed can repeat are stored beside the labels and reported apart."""
    labels = record("labels.fkd", "labels", [4, 3, 2], 24, role="fkd", views=3)
    coordinates = {"dtype": "F16", "shape": [4, 3, 4], "bytes": 96, "sha256": "0" * 64}
    labels["tensors"]["labels.fkd.augmentation"] = coordinates
    storage = summary([record("images", "images", [4, 1, 4, 4], 64), labels])

    assert storage["augmentation_state"] == 96
    assert storage["labels"]["fkd"] == {"raw": 4 * 4 * 3 * 2, "stored": 120}
    assert summary(table(8, 5, 3))["augmentation_state"] == 0


def test_foreign_bytes_and_container_are_part_of_the_total() -> None:
    """Nothing is hidden."""
    storage = summary(table(8, 5, 3), 5, header=100, manifest=20, padding=3, unlisted=4)

    assert storage["container"] == {"header": 100, "manifest": 20, "padding": 3, "unlisted": 4}
    assert storage["total"] == 127 + 1920 + 10 + 1800


IMAGE, FEATURE, CHANNEL = 3 * 32 * 32, 128 * 4 * 4, 128


@pytest.mark.parametrize(
    ("image", "label", "shrunk", "grown"),
    [
        (4 * IMAGE, 4 * FEATURE, (0, 6, 30), (1, 16, 83)),
        (4 * IMAGE, 2 * FEATURE, (0, 7, 37), (1, 13, 66)),
        (4 * IMAGE, FEATURE + 8, (0, 8, 42), (1, 11, 58)),
        (4 * IMAGE, 4 * CHANNEL, (0, 9, 48), (1, 10, 52)),
        (IMAGE, 4 * FEATURE, (0, 2, 13), (3, 36, 183)),
        (IMAGE, 2 * FEATURE, (0, 4, 21), (2, 23, 116)),
        (IMAGE, 2 * CHANNEL, (0, 9, 46), (1, 10, 54)),
    ],
)
def test_equal_bytes_of_feature_labels(image: int, label: int, shrunk: tuple[int, ...], grown: tuple[int, ...]) -> None:
    """The table for ConvNet-D3 at 32 px and ipc 1, 10, 50: pixels and labels as float32, float16 or bytes."""
    assert [(less, more) for less, more in zip(shrunk, grown, strict=True)] == [
        equal_ipc(ipc, image, label) for ipc in (1, 10, 50)
    ]


def test_equal_bytes_are_exact_where_images_come_out_even() -> None:
    """50 * 3072 / 3200 = 48: the ipc of DCPI's repository. A ratio of floats must not lose the last image."""
    assert 48 == equal_ipc(50, IMAGE, CHANNEL)[0]
    assert 9 == equal_ipc(10, IMAGE, CHANNEL)[0]
    assert (49, 147) == equal_ipc(49, 0.1, 0)[:1] + equal_ipc(49, 0.1, 0.2)[1:]
    assert (33, 300) == equal_ipc(100, 3, 6)


def test_feature_labels_count_their_numbers_and_their_norm() -> None:
    """Not the classes: 4 bytes a number, K of them, and two tensors that the set shares."""
    section = record(
        "labels.feature", "labels", [10, 2, 24], 960, role="feature", views=2, domain="feature"
    ) | {"parameters": {"shape": [6, 2, 2]}}  # fmt: skip
    for part in ("mean", "scale"):
        section["tensors"][f"labels.feature.shared_norm_{part}"] = {
            "dtype": "F32", "shape": [6, 2, 2], "bytes": 96, "sha256": "0" * 64,
        }  # fmt: skip
    made = summary([record("images", "images", [10, 3, 4, 4], 480), section])

    assert {"kind": "labels", "raw": 4 * 24 * 20 + 192, "stored": 960 + 192} == made["sections"]["labels.feature"]
    assert 8 * 1152 / 20 == made["bits_per_view"]["labels.feature"]
    assert (4 * 24 * 20 + 192) / 480 == made["overhead"]["raw"]
