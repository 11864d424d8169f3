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
    original = parquet.ParquetFile.iter_batches

    def note(self, rows, columns=None, **more):
        read.append(tuple(columns))
        return original(self, rows, columns=columns, **more)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", note)
    bundle = imported(path, *FACTS, *CONSTANTS)
    assert set(read) == {("image",), ("label",)}
    assert len(bundle.tensor("labels.hard")) == 8
    outcome = run_cli("import", path, *FACTS, *CONSTANTS, "--set", "label=when", "-o", tmp_path / "y.ddset")
    assert (outcome.code, "column 'when' cannot be read" in outcome.err) == (3, True)


def test_without_the_library_the_extra_is_named(tmp_path: Path, units, labels, refused, monkeypatch) -> None:
    path = write_table(tmp_path / "x.parquet", units, labels)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "pip install 'ddlabel[hf]'" in refused(2, path, *FACTS, *CONSTANTS)


def test_a_column_that_a_dictionary_makes_huge_is_not_decoded(
    tmp_path: Path, units, labels, refused, monkeypatch
) -> None:
    """One value in the file, many rows of it; and a table of one value whose lists are long."""
    from pyarrow import parquet

    from ddlabel.importers import parquet as importer

    monkeypatch.setattr(importer, "FREE_BYTES", 2**20)
    monkeypatch.setattr(importer, "MAX_RATIO", 1)
    monkeypatch.setattr(importer, "BATCH_BYTES", 2**18)
    path, rows, seen = tmp_path / "x.parquet", 20_000, []
    picture = encoded(pixels_of(units)[0]) + bytes(10_000)
    images = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([picture]))
    parquet.write_table(pyarrow.table({"image": images, "label": [0] * rows}), path)
    original = importer.decode
    monkeypatch.setattr(importer, "decode", lambda *given: seen.append(1) or original(*given))
    assert path.stat().st_size < 2**17
    assert "once it is decoded" in refused(3, path, *FACTS, *CONSTANTS)
    assert len(seen) < 200  # stopped long before the last row
    write_table(path, units, labels, soft=[[0.0] * 40_000] * 8)
    assert "column 'soft' holds more than" in refused(3, path, *FACTS, *CONSTANTS, "--domain", "logit")


def test_odd_columns_and_names_are_refused(tmp_path: Path, units, labels, refused) -> None:
    path = tmp_path / "x.parquet"
    given = (path, "--name", "pets", "--mirror", "yes", *CONSTANTS)
    for names, message in (
        ((), "has 0 class names"),
        (("a", "a", "b", "c"), "'a' twice"),
        (("a", "", "b", "c"), "none empty"),
        (("a", "\ud800", "b", "c"), "x.parquet has the class name '\\ud800'"),
    ):
        write_table(path, units, labels, names=names)
        assert message in refused(3, *given)
    assert "'label' holds no lists" in refused(2, *given, "--set", "soft=label")
    from pyarrow import parquet

    table = parquet.read_table(path)
    parquet.write_table(table.append_column("label", table.column("label")), path)
    assert "two columns are called 'label'" in refused(3, *given)
    parquet.write_table(table.set_column(1, "label", pyarrow.array([10**12] * 8, pyarrow.timestamp("s"))), path)
    assert "column 'label' cannot be read" in refused(3, *given)
