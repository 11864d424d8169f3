"""Parquet as Hugging Face's `datasets` reads it: pictures that viewers show, class names, labels as columns.

Columns: `image` struct<bytes: binary, path: string> with the PNG; `label` int64, a ClassLabel; `labels_<kind>` lists of
float32, one list for soft labels and lists of lists for several views or labels. Page checksums are on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import UsageError
from ..interchange import PARQUET_EXPORT, PARQUET_FEATURES, PARQUET_IMAGE, PARQUET_LABEL
from ._exporter import BATCH, Content, Description, Exporter, Open, check_channels, describe_labels, label_arrays
from ._lost import lost_labels, lost_norms, lost_pictures, lost_sections

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EXPORTER"]


class Parquet(Exporter):
    """One file; its schema says to `datasets` what the columns are."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    has_pictures: ClassVar[bool] = True

    def holds(self, kind: str) -> bool:
        """All of them."""
        return bool(kind)

    def check(self, content: Content) -> None:
        """Pictures have 1 or 3 channels; the library is there."""
        check_channels(content, "parquet")
        _pyarrow()

    def describe(self, content: Content) -> Description:
        """Pictures and labels by row."""
        return Description(
            images={"in": f"{PARQUET_IMAGE}.bytes", **(content.pictures.record() if content.pictures else {})},
            labels={"hard": {"in": PARQUET_LABEL}, **describe_labels(content)},
            lost=(*lost_pictures(content), *lost_labels(content), *lost_norms(content), *lost_sections(content)),
        )

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """Row groups of some images, in the bundle's order."""
        pa, pq = _pyarrow()
        columns = {name: _columns(array) for name, array in label_arrays(content).items()}
        features = {
            PARQUET_IMAGE: {"_type": "Image"},
            PARQUET_LABEL: {"names": _class_names(content.stored.classes), "_type": "ClassLabel"},
            **{name: _feature(array) for name, array in columns.items()},
        }
        metadata = {
            PARQUET_FEATURES: json.dumps({"info": {"features": features}}),
            PARQUET_EXPORT: json.dumps(document, sort_keys=True, allow_nan=False),
        }
        writer = None
        with file("") as stream:
            try:
                for start in range(0, len(content.stored), BATCH):
                    table = _table(content, columns, slice(start, start + BATCH)).replace_schema_metadata(metadata)
                    writer = writer or pq.ParquetWriter(stream, table.schema, write_page_checksum=True)
                    writer.write_table(table)
                    content.step(start + BATCH)
            finally:
                if writer is not None:
                    writer.close()
        del pa


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "format 'parquet' needs pyarrow, which is not installed", field="format", hint="pip install 'ddlabel[hf]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _class_names(classes: tuple[str, ...]) -> list[str]:
    """As they are where they are unique, which ClassLabel wants; else with their index."""
    if len(set(classes)) == len(classes):
        return list(classes)
    return [f"{index} {name}" for index, name in enumerate(classes)]


def _columns(array: np.ndarray) -> np.ndarray:
    """One list per image where there is one view; the numbers of a feature label flat."""
    if array.ndim > 3:
        array = array.reshape(*array.shape[:2], -1)
    return array[:, 0] if array.ndim == 3 and array.shape[1] == 1 else array


def _feature(array: np.ndarray) -> dict[str, Any]:
    feature: dict[str, Any] = {"dtype": str(array.dtype), "_type": "Value"}
    for _axis in array.shape[1:]:
        feature = {"feature": feature, "_type": "Sequence"}
    return feature


def _table(content: Content, columns: Mapping[str, np.ndarray], rows: slice) -> Any:
    from ._pictures import png

    if content.pictures is None:
        raise ValueError("a table of images holds pictures, and none were drawn")
    pa, _pq = _pyarrow()
    files = [png(picture) for picture in content.pictures.pixels[rows]]
    names = [f"{index:06d}.png" for index in range(rows.start, rows.start + len(files))]
    image = pa.StructArray.from_arrays(
        [pa.array(files, pa.binary()), pa.array(names, pa.string())],
        fields=[pa.field("bytes", pa.binary()), pa.field("path", pa.string())],
    )
    label = pa.array(content.stored.labels[rows].numpy(), pa.int64())
    return pa.table(
        {
            PARQUET_IMAGE: image,
            PARQUET_LABEL: label,
            **{name: _lists(pa, array[rows]) for name, array in columns.items()},
        }
    )


def _lists(pa: Any, array: np.ndarray) -> Any:
    """(m, ...) as m lists, nested by axis."""
    import numpy as np

    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        count = int(np.prod(array.shape[:axis]))
        offsets = np.arange(count + 1, dtype=np.int32) * np.int32(array.shape[axis])
        values = pa.ListArray.from_arrays(pa.array(offsets), values)
    return values


EXPORTER = Parquet()
