"""What each format promises to keep is exactly there, read back by other libraries and none of our own code."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddlabel.bundle import Bundle
from ddlabel.distilled import read_distilled
from ddlabel.errors import BundleError, UsageError
from ddlabel.exporters.folder import class_folders
from ddlabel.exporters.scores import COLUMNS
from ddlabel.labels._labels import read_labels

from .conftest import HEIGHT, MEAN, STD, WIDTH, floats, make_set

PIXELS = ("folder", "parquet", "webdataset")


def pictures(path: Path) -> list[np.ndarray]:
    """All pictures of an export, in the bundle's order, (h, w, c)."""
    if path.is_dir():
        files = [file.read_bytes() for file in sorted(path.glob("*/*.png"), key=lambda file: file.name)]
    elif path.suffix == ".parquet":
        files = [row["bytes"] for row in pq.read_table(path)["image"].to_pylist()]
    else:
        with tarfile.open(path) as archive:
            names = sorted(name for name in archive.getnames() if name.endswith(".png"))
            files = [archive.extractfile(name).read() for name in names]
    return [np.atleast_3d(np.asarray(Image.open(io.BytesIO(file)))) for file in files]


@pytest.mark.parametrize("form", PIXELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_stored_pixels_are_exactly_the_pictures(make, export, form: str, channels: int) -> None:
    """Grey and colour; the sidecar says exact8, and nothing about pixels is lost."""
    bundle = make(channels=channels)
    path, said = export(bundle, {"parquet": "x.parquet", "webdataset": "x.tar"}.get(form, "x"), form)
    stored = bundle.tensor("images.pixels").permute(0, 2, 3, 1).numpy()

    assert np.array_equal(stored, np.stack(pictures(path)))
    assert "exact8" == said["images"]["form"]
    assert not [line for line in said["lost"] if "pictures" in line]


@pytest.mark.slow
def test_image_folder_of_torchvision_reads_a_folder(make, export) -> None:
    """Classes in label order, files in the bundle's; importing it takes seconds."""
    from torchvision.datasets import ImageFolder

    bundle = make()
    path, said = export(bundle, "x", "folder")
    read = ImageFolder(str(path))

    assert [0, 0, 1, 1, 2, 2] == read.targets
    assert ["00000_cat", "00001_dog", "00002_emu"] == read.classes == [entry["folder"] for entry in said["classes"]]
    assert [f"{index:06d}.png" for index in range(6)] == [Path(name).name for name, _label in read.samples]


def test_folders_and_files_sort_in_the_order_of_the_bundle(make, export) -> None:
    """By bytes, as every reader sorts them."""
    path, said = export(make(classes=("b", "a", "C"), labels=[0, 0, 1, 1, 2, 2]), "x", "folder")
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*.png"))

    assert ["00000_b", "00001_a", "00002_C"] == [entry["folder"] for entry in said["classes"]]
    assert [f"{index:06d}.png" for index in range(6)] == [name.split("/")[1] for name in names]
    assert names == [name for name in said["files"] if name.endswith(".png")]


@pytest.mark.fault(21)
def test_class_names_never_become_paths(make, export, tmp_path: Path) -> None:
    """Whatever a bundle calls its classes, files lie in plain folders one deep; the names are in the sidecar."""
    names = ["../../evil", "/etc/x", "..", "", "a/b\\c", "line\nbreak\x1b[2J", "\0", "x" * 1024, "犬", "CON."]
    bundle = make(classes=names, labels=range(10))
    for form, name in (("folder", "x"), ("webdataset", "x.tar"), ("parquet", "x.parquet"), ("npz", "x.npz")):
        _path, said = export(bundle, name, form)
        assert names == [entry["name"] for entry in said["classes"]]
    folders = sorted(path.name for path in (tmp_path / "x").iterdir() if path.is_dir())

    assert [
        "00000_evil", "00001_etc_x", "00002", "00003", "00004_a_b_c", "00005_line_break_2J", "00006",
        "00007_" + 60 * "x", "00008", "00009_CON",
    ] == folders  # fmt: skip
    assert {"x", "x.tar", "x.parquet", "x.npz"} == {
        file.name.removesuffix(".ddset-export.json") for file in tmp_path.iterdir()
    }
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert all(set(name) <= set("0123456789.abcdefghijklmnopqrstuvwxyz-_") for name in archive.getnames())


def test_folder_names_stay_in_label_order_beyond_ten_thousand_classes() -> None:
    """Five digits for as many classes as a bundle can have."""
    names = class_folders([str(-index) for index in range(100_000)])

    assert names == sorted(names)
    assert 100_000 == len(set(names))


def test_a_class_without_images_keeps_its_folder(make, export) -> None:
    """Without it, readers would count the classes behind it differently and say nothing."""
    path, said = export(make(labels=[0, 0, 2, 2, 2, 2]), "x", "folder")

    assert 3 == len([child for child in path.iterdir() if child.is_dir()])
    assert "1 of 3 classes have no images" in " ".join(said["lost"])


@pytest.mark.parametrize("stored", ["pixels", "floats", "zca"])
def test_npz_holds_everything_that_training_needs(make, export, stored: str) -> None:
    """Images, labels of every kind, constants, step size: bit for bit, without pickles."""
    images = None if stored == "pixels" else floats()
    bundle = make(images, zca=stored == "zca", lr=0.0123, soft={}, dense=True)
    path, said = export(bundle, "x.npz", "npz")
    arrays = np.load(path, allow_pickle=False)

    if stored == "pixels":
        assert np.array_equal(bundle.tensor("images.pixels").permute(0, 2, 3, 1).numpy(), arrays["images"])
    else:
        assert np.array_equal(images.numpy(), arrays["images_float"])
    for kind in ("soft", "dense"):
        assert np.array_equal(read_labels(bundle, kind).values.numpy(), arrays[f"labels_{kind}"])
        assert "logit" == str(arrays[f"labels_{kind}_domain"]) == said["labels"][kind]["domain"]
    assert [0, 0, 1, 1, 2, 2] == arrays["labels"].tolist()
    assert ["cat", "dog", "emu"] == arrays["classes"].tolist()
    assert [list(MEAN), list(STD)] == [arrays["mean"].tolist(), arrays["std"].tolist()]
    assert np.float32(0.0123) == arrays["student_lr"]
    assert ("zca" if stored == "zca" else "normalised") == str(arrays["space"])
    for part in ("mean", "matrix", "inverse") if stored == "zca" else ():
        assert np.array_equal(bundle.tensor(f"transform.zca.{part}").numpy(), arrays[f"zca_{part}"])
    assert said["source"]["content"] == json.loads(str(arrays["ddset_export"]))["source"]["content"] == bundle.content
    assert [] == said["lost"]


@pytest.mark.parametrize("zca", [False, True], ids=["normalised", "whitened"])
def test_mtt_files_are_what_students_train_on(make, export, zca: bool) -> None:
    """Images in training space to the bit, labels, step size; beside whitened images their un-whitened twin."""
    bundle = make(zca=zca, lr=0.0123)
    path, said = export(bundle, "x", "mtt")
    read = {file.stem: torch.load(file, weights_only=True) for file in path.glob("*.pt")}
    distilled = read_distilled(bundle)

    assert torch.equal(distilled.images, read["images_best"])
    assert torch.equal(distilled.labels, read["labels_best"])
    assert torch.int64 == read["labels_best"].dtype
    assert torch.equal(torch.tensor(0.0123), read["lr_best"])
    assert 0 == read["lr_best"].ndim
    assert zca == ("images_zca_best" in read) == ("whiten" in " ".join(said["lost"]))
    if zca:
        shown = (read["images_zca_best"] * 255).round().to(torch.uint8)
        assert torch.equal(bundle.tensor("images.pixels"), shown)


def test_learned_soft_labels_are_the_logits_of_an_mtt_folder(make, export) -> None:
    """As DATM has them; labels of a teacher only when they are asked for."""
    learned, taught = make(soft={"learned": True}), make(soft={})
    for name, bundle, options, logits in (
        ("a", learned, {}, True),
        ("b", learned, {"labels": ("hard",)}, False),
        ("c", taught, {}, False),
        ("d", taught, {"labels": ("soft",)}, True),
    ):
        path, said = export(bundle, name, "mtt", **options)
        labels = torch.load(path / "labels_best.pt", weights_only=True)
        wanted = read_labels(bundle, "soft").values[:, 0] if logits else read_distilled(bundle).labels
        assert torch.equal(wanted, labels), name
        assert ("soft" if logits else "hard") in said["labels"]
        assert logits != ("soft labels are left out" in said["lost"])


def test_dc_file_has_one_experiment_and_the_scores(make, export) -> None:
    """The layout of `res_*.pt`; accuracies of other labels or other images are not in it."""
    bundle = make()
    scores = [
        ("bundle", "hard", [0.5, 0.25]),
        ("bundle", "soft", [0.9, 0.9]),
        ("random", "hard", [0.1, 0.1]),
    ]
    results = [
        {"arch": "mlp", "images": images, "labels": labels, "accuracy": {"values": values}}
        for images, labels, values in scores
    ]
    for digest in (bundle.images_digest(), "0" * 64):
        from .conftest import record

        bundle = bundle.with_evaluation(record("evaluate"), {"protocol": "dm", "images": digest, "results": results})
    path, said = export(bundle, "res_DM_tiny_ConvNet_2ipc.pt", "dc")
    read = torch.load(path, weights_only=True)
    ((images, labels),) = read["data"]

    assert torch.equal(read_distilled(bundle).images, images)
    assert torch.equal(read_distilled(bundle).labels, labels)
    assert {"mlp": [0.5, 0.25]} == read["accs_all_exps"]
    assert {"evaluation": 0, "protocol": "dm", "in": "accs_all_exps"} == said["scores"]
    assert [line for line in said["lost"] if "scores of other evaluations" in line]


def test_accuracies_of_two_protocols_are_not_mixed_in_a_dc_file(make, export) -> None:
    """The last evaluation, and of a net with several losses the first; the sidecar says which protocol."""
    from .conftest import record

    def row(arch: str, value: float, **more: object) -> dict[str, object]:
        return {"arch": arch, "images": "bundle", "labels": "hard", "accuracy": {"values": [value]}, **more}

    bundle = make()
    digest = bundle.images_digest()
    for protocol, rows in (("mtt", [row("mlp", 0.1)]), ("dm", [row("mlp", 0.5), row("mlp", 0.75), row("vgg11", 0.25)])):
        bundle = bundle.with_evaluation(
            record("evaluate"), {"protocol": protocol, "images": digest, "results": [*rows, row("lenet", 1, steps=5)]}
        )
    path, said = export(bundle, "x.pt", "dc")

    assert {"mlp": [0.5], "vgg11": [0.25]} == torch.load(path, weights_only=True)["accs_all_exps"]
    assert {"evaluation": 1, "protocol": "dm", "in": "accs_all_exps"} == said["scores"]


def test_parquet_says_to_hugging_face_what_its_columns_are(make, export) -> None:
    """Pictures, class names, and float32 lists; page checksums are checked."""
    bundle = make(soft={}, dense=True)
    path, said = export(bundle, "x.parquet", "parquet")
    table = pq.read_table(path, page_checksum_verification=True)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]

    assert "struct<bytes: binary, path: string>" == str(table.schema.field("image").type)
    assert {"_type": "Image"} == features["image"]
    assert {"_type": "ClassLabel", "names": ["cat", "dog", "emu"]} == features["label"]
    assert {"_type": "Sequence", "feature": {"_type": "Value", "dtype": "float32"}} == features["labels_soft"]
    assert [0, 0, 1, 1, 2, 2] == table["label"].to_pylist()
    for kind, shape in (("soft", (6, 3)), ("dense", (6, 4, 3))):
        read = np.array(table[f"labels_{kind}"].to_pylist(), np.float32)
        assert shape == read.shape
        assert np.array_equal(read_labels(bundle, kind).values.numpy().reshape(shape), read)
    assert said["source"] == json.loads(table.schema.metadata[b"ddset-export"])["source"]


def test_a_flipped_bit_in_a_parquet_page_is_noticed(make, export) -> None:
    """Checksums are written, not only asked for."""
    path, _said = export(make(), "x.parquet", "parquet")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    path.write_bytes(data)

    with pytest.raises(OSError, match=r"CRC|checksum"):
        pq.read_table(path, page_checksum_verification=True)


def test_class_names_that_repeat_get_their_index_in_parquet(make, export) -> None:
    """ClassLabel refuses equal names."""
    path, _said = export(make(classes=("cat", "cat", "emu")), "x.parquet", "parquet")
    features = json.loads(pq.read_table(path).schema.metadata[b"huggingface"])["info"]["features"]

    assert ["0 cat", "1 cat", "2 emu"] == features["label"]["names"]


def test_webdataset_members_are_samples_without_owner_or_time(make, export) -> None:
    """KEY.cls, KEY.json, KEY.png, sorted; float32 labels come back exactly."""
    bundle = make(soft={}, dense=True)
    path, _said = export(bundle, "x.tar", "webdataset")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        samples = [json.load(archive.extractfile(f"{index:06d}.json")) for index in range(6)]
        labels = [int(archive.extractfile(f"{index:06d}.cls").read()) for index in range(6)]

    names = [f"{index:06d}.{suffix}" for index in range(6) for suffix in ("cls", "json", "png")]
    assert ["__ddset-export__", *names] == [member.name for member in members]
    assert {(0, 0, 0, "", "", 0o644)} == {
        (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) for member in members
    }
    assert [0, 0, 1, 1, 2, 2] == labels == [sample["label"] for sample in samples]
    for kind in ("soft", "dense"):
        read = np.array([sample[f"labels_{kind}"] for sample in samples], np.float32)
        assert np.array_equal(read_labels(bundle, kind).values.numpy(), read)


@pytest.mark.parametrize("name", ["x.npz", "x.tar", "x.parquet", "x"])
def test_the_same_bundle_gives_the_same_bytes(make, export, name: str) -> None:
    """No clock, no order of a set, no name of a machine."""
    form = {"x.npz": "npz", "x.tar": "webdataset", "x.parquet": "parquet", "x": "folder"}[name]
    bundle = make(soft={})
    _path, first = export(bundle, name, form)
    _path, second = export(bundle, name, form, force=True)

    assert first == second
    assert first["files"]


def test_members_of_npz_have_a_fixed_date(make, export) -> None:
    """Zip has times, and they would be those of the export."""
    path, _said = export(make(), "x.npz", "npz")
    with zipfile.ZipFile(path) as archive:
        assert {(1980, 1, 1, 0, 0, 0)} == {member.date_time for member in archive.infolist()}
        assert archive.testzip() is None


def test_scores_are_a_table(make, export) -> None:
    """One line per row; without scores there is nothing to write."""
    accuracy = {"values": [0.5, 0.25], "mean": 0.375, "std": 0.2, "ci95": None, "n": 2}
    row = {"arch": "mlp", "images": "bundle", "labels": "hard", "loss": {"name": "ce"}, "accuracy": accuracy}
    from .conftest import record

    bundle = make().with_evaluation(
        record("evaluate"), {"protocol": "dm", "results": [row, row | {"images": "random"}]}
    )
    path, _said = export(bundle, "x.csv", "scores")
    lines = list(csv.DictReader(path.read_text().splitlines()))

    assert list(COLUMNS) == list(lines[0])
    assert ["bundle", "random"] == [line["images"] for line in lines]
    assert ("0", "dm", "mlp", "ce", "0.375", "0.5 0.25", "") == tuple(
        lines[0][name] for name in ("evaluation", "protocol", "arch", "loss", "mean", "values", "ci95")
    )
    with pytest.raises(UsageError, match="has no scores; run 'ddlabel evaluate"):
        export(make(), "y.csv", "scores")


@pytest.mark.parametrize("form", PIXELS)
def test_pictures_need_one_or_three_channels(make, export, form: str, tmp_path: Path) -> None:
    """Refused before anything is written."""
    with pytest.raises(UsageError, match=r"1 or 3 channels, .* has 2; use --format npz"):
        export(make(channels=2), "x", form)
    assert not list(tmp_path.iterdir())


def test_labels_that_a_format_cannot_hold_are_refused_when_asked_for(make, export) -> None:
    """And left out, with a word, when not."""
    bundle = make(dense=True)
    _path, said = export(bundle, "x", "folder")

    assert ["hard"] == list(said["labels"])
    assert "dense labels are left out" in said["lost"]
    with pytest.raises(UsageError, match="format 'folder' cannot hold dense labels; use --format npz"):
        export(bundle, "y", "folder", labels=("dense",))
    with pytest.raises(BundleError, match="no soft labels"):
        export(bundle, "y.npz", "npz", labels=("soft",))


def test_stale_labels_are_left_out_and_said(make, export) -> None:
    """They are of other images."""
    from ddlabel.distilled import image_section
    from ddlabel.preprocess import read_space

    from .conftest import record

    bundle = make(soft={})
    changed = image_section(255 - bundle.tensor("images.pixels"), read_space(bundle))
    stale = bundle.with_stage(record("distill"), add=[changed])
    _path, said = export(stale, "x.npz", "npz")

    assert ["hard"] == list(said["labels"])
    assert "soft labels are left out (they are stale: the images changed)" in said["lost"]
    with pytest.raises(BundleError, match="stale"):
        export(stale, "y.npz", "npz", labels=("soft",))


def test_labels_of_a_kind_that_nobody_here_knows_are_left_out(make, export, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer ddlabel may have made them."""
    from ddlabel.bundle import NewSection

    from .conftest import record

    new = NewSection("labels.aura", "labels", {"labels.aura.values": torch.zeros(6, 3)}, role="aura")
    with monkeypatch.context() as newer:
        newer.setattr("ddlabel.bundle.understands", lambda feature: True)
        bundle = make().with_stage(record("new"), add=[new])
    _path, said = export(bundle, "x.npz", "npz")

    assert "aura labels are left out" in said["lost"]


def test_without_pyarrow_parquet_says_what_to_install(make, export, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"needs pyarrow, .*; pip install 'ddlabel\[hf\]'"):
        export(make(), "x.parquet", "parquet")


def test_shapes_of_these_tests_tell_rows_from_columns() -> None:
    """A picture that is turned, or has its channels last where they are first, cannot pass."""
    bundle: Bundle = make_set()

    assert (6, 3, HEIGHT, WIDTH) == tuple(bundle.tensor("images.pixels").shape)
    assert 4 == len({6, 3, HEIGHT, WIDTH} | {5})
