"""Tables of Hugging Face's `datasets`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddlabel.labels._labels import read_labels

from .conftest import CONSTANTS, FACTS, pixels_of

pyarrow = pytest.importorskip("pyarrow")


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_table(path: Path, units, labels, *, names=("dog", "bee", "cat", "ant"), **columns) -> Path:
    from pyarrow import parquet

    images = [{"bytes": encoded(pixels), "path": "../../etc/passwd"} for pixels in pixels_of(units)]
    table = pyarrow.table({"image": images, "label": pyarrow.array(labels.tolist(), pyarrow.int64()), **columns})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path
    )
    return path


def test_pictures_classes_and_soft_labels_are_read(tmp_path: Path, units, labels, imported) -> None:
    soft = torch.randn(8, 4)
    path = write_table(tmp_path / "x.parquet", units, labels, logits=soft.tolist())
    bundle = imported(path, "--name", "pets", "--mirror", "yes", *CONSTANTS, "--domain", "logit")

    assert bundle.manifest.data["classes"] == ["dog", "bee", "cat", "ant"]
    assert np.array_equal(bundle.tensor("images.pixels").permute(0, 2, 3, 1).numpy(), pixels_of(units))
    assert torch.equal(read_labels(bundle, "soft").values[:, 0], soft)


def test_names_are_looked_up_in_the_order_that_is_given(tmp_path: Path, units, labels, imported) -> None:
    """The columns of soft labels move with the classes."""
    soft = torch.randn(8, 4)
    path = write_table(tmp_path / "x.parquet", units, labels, soft=soft.tolist())
    bundle = imported(path, *FACTS, *CONSTANTS, "--domain", "logit")

    assert bundle.manifest.data["classes"] == ["ant", "bee", "cat", "dog"]
    assert bundle.tensor("labels.hard").tolist() == labels.tolist()
    assert np.array_equal(bundle.tensor("images.pixels")[:2].permute(0, 2, 3, 1).numpy(), pixels_of(units)[6:])
    assert torch.equal(read_labels(bundle, "soft").values[0, 0], soft[6, [3, 1, 2, 0]])


def test_columns_can_be_named(tmp_path: Path, units, labels, imported, refused) -> None:
    first, second = torch.randn(8, 4), torch.randn(8, 4)
    path = write_table(tmp_path / "x.parquet", units, labels, a=first.tolist(), b=second.tolist())
    given = (path, *FACTS, *CONSTANTS, "--domain", "logit")

    assert "--set soft=COLUMN" in refused(2, *given)
    assert "no column 'c'" in refused(2, *given, "--set", "soft=c")
    bundle = imported(*given, "--set", "soft=b")
    assert torch.equal(read_labels(bundle, "soft").values[0, 0], second[6, [3, 1, 2, 0]])


def test_broken_tables_are_refused(tmp_path: Path, units, labels, refused) -> None:
    path = tmp_path / "x.parquet"
    given = (path, *FACTS, *CONSTANTS, "--domain", "logit")
    write_table(path, units, labels, soft=[[0.5]] * 7 + [[0.5, 0.5]])
    assert "lists of several lengths" in refused(3, *given)
    write_table(path, units, labels, names=("a", 5))
    assert "no list of texts" in refused(3, *given)
    write_table(path, units, labels)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "not a readable parquet" in refused(3, *given)
    path.write_bytes(data[:100] + bytes([data[100] ^ 255]) + data[101:])
    refused(4, *given)


def test_columns_that_nobody_wants_are_not_read(tmp_path: Path, units, labels, imported, monkeypatch, run_cli) -> None:
    """A column may be larger than memory, and of a type that Python does not have."""
    from pyarrow import parquet

    path, read = write_table(tmp_path / "x.parquet", units, labels, a=[1] * 8, when=[2**62] * 8), []
    table = parquet.read_table(path)
    when = table.column("when").cast(pyarrow.timestamp("us"))
    parquet.write_table(table.set_column(3, "when", when), path, row_group_size=3)
    original = parquet.ParquetFile.read_row_group

    def note(self, index, columns=None, **more):
        read.append((index, tuple(columns)))
        return original(self, index, columns=columns, **more)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", note)
    bundle = imported(path, *FACTS, *CONSTANTS)
    assert {columns for _index, columns in read} == {("image",), ("label",)}
    assert {index for index, _columns in read} == {0, 1, 2}
    assert len(bundle.tensor("labels.hard")) == 8
    outcome = run_cli("import", path, *FACTS, *CONSTANTS, "--set", "label=when", "-o", tmp_path / "y.ddset")
    assert (outcome.code, "column 'when' cannot be read" in outcome.err) == (3, True)


def test_without_the_library_the_extra_is_named(tmp_path: Path, units, labels, refused, monkeypatch) -> None:
    path = write_table(tmp_path / "x.parquet", units, labels)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "pip install 'ddlabel[hf]'" in refused(2, path, *FACTS, *CONSTANTS)
