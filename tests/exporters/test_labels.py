"""Labels of every kind in every format that holds them, read back by other libraries and none of our own code."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.config import AugmentLabelsConfig, RefineConfig
from ddlabel.interchange import NPZ_EXPORT, SIDECAR, decode_sidecar, sidecar_of
from ddlabel.labels._labels import read_labels
from ddlabel.labels._privileged import read_privileged
from ddlabel.stages import augment_labels, refine


@pytest.fixture(scope="module")
def labelled(files) -> Bundle:
    """Pruned dense labels, fkd with stored draws, refined soft ones, features under a norm, attention."""
    bundle, teachers = Bundle.open(files.base), [Bundle.open(files.teacher)]
    for kind, codec, settings in (
        ("soft", "f32", {}),
        ("dense", "prune", {"grid": 3, "ratio": "1/2", "keep": 0.5}),
        ("fkd", "f16", {"views": 3, "replay": "explicit", "mix": "cutmix"}),
        ("feature", "f32", {"norm": "zscore"}),
        ("attention", "f16", {}),
    ):
        config = AugmentLabelsConfig(kind=kind, codec=codec, threads=1)
        bundle = augment_labels.run(bundle, config, settings, teachers=teachers)
    return refine.run(bundle, RefineConfig(method="gift", labels="soft", threads=1))


def read_back(path: Path) -> dict[str, np.ndarray]:
    """All `labels_` arrays of an export by name."""
    if path.suffix == ".npz":
        arrays = np.load(path, allow_pickle=False)
        return {name: arrays[name] for name in arrays.files if name.startswith("labels_")}
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return {name: np.array(table[name].to_pylist()) for name in table.column_names if name.startswith("labels_")}
    with tarfile.open(path) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".json"))
        samples = [json.load(archive.extractfile(name)) for name in names]
    return {name: np.array([each[name] for each in samples]) for name in samples[0] if name.startswith("labels_")}


@pytest.mark.parametrize(("name", "form"), [("x.npz", "npz"), ("x.parquet", "parquet"), ("x.tar", "webdataset")])
def test_labels_of_every_kind_are_exactly_there(labelled, export, name: str, form: str) -> None:
    """Values, the views that were kept, the draws; the sidecar says domain, parameters and refinement."""
    path, said = export(labelled, name, form)
    found = read_back(path)
    for kind in ("soft", "dense", "fkd"):
        labels = read_labels(labelled, kind)
        values = found[f"labels_{kind}"].astype(np.float32)
        assert np.array_equal(labels.values.numpy(), values.reshape(labels.values.shape)), kind
        assert labels.section.domain == said["labels"][kind]["domain"]
        assert dict(labels.parameters) == said["labels"][kind]["parameters"]
        draws = {name for name in found if name.startswith(f"labels_{kind}_draws_")}
        assert {f"labels_{kind}_draws_{draw}" for draw in labels.augmentation} == draws
        for draw, stored in labels.augmentation.items():
            assert np.array_equal(stored.numpy(), found[f"labels_{kind}_draws_{draw}"].reshape(stored.shape))
    for kind in ("feature", "attention"):
        features = read_privileged(labelled, kind).values
        values = found[f"labels_{kind}"].astype(np.float32)
        assert np.array_equal(features.numpy(), values.reshape(features.shape)), kind

    assert np.array_equal(read_labels(labelled, "dense").view_ids.numpy(), found["labels_dense_view_ids"])
    assert found["labels_fkd_draws_box"].size
    assert ["gift", None] == [(said["labels"][kind]["refined"] or {}).get("method") for kind in ("soft", "dense")]
    assert ("unit", "feature") == (said["labels"]["soft"]["domain"], said["labels"]["feature"]["domain"])


def test_the_norm_of_features_is_in_npz_alone(labelled, export) -> None:
    """One for all images: other formats say that it is lost."""
    norm = read_privileged(labelled, "feature").norm
    path, said = export(labelled, "x.npz", "npz")
    _path, table = export(labelled, "x.parquet", "parquet")
    arrays = np.load(path)

    assert torch.equal(norm.mean, torch.from_numpy(arrays["labels_feature_norm_mean"]))
    assert torch.equal(norm.scale, torch.from_numpy(arrays["labels_feature_norm_scale"]))
    assert not [line for line in said["lost"] if "norm" in line]
    assert "the norm that feature labels are compared under is not in this format (npz)" in table["lost"]


@pytest.mark.parametrize("form", ["folder", "npz", "mtt", "dc", "parquet", "webdataset"])
def test_sidecars_are_what_imports_accept(labelled, export, form: str) -> None:
    """Of every format with images, after every check; and what npz has inside is the same."""
    suffix = {"npz": ".npz", "dc": ".pt", "parquet": ".parquet", "webdataset": ".tar"}.get(form, "")
    path, said = export(labelled, f"x{suffix}", form)
    beside = path / SIDECAR if path.is_dir() else Path(sidecar_of(str(path)))

    assert said == decode_sidecar(beside.read_bytes(), "x")
    if form == "npz":
        inside = decode_sidecar(str(np.load(path)[NPZ_EXPORT]), "x")
        assert {key: value for key, value in said.items() if key != "files"} == inside
