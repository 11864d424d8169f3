"""Hugging Face parquet: an image column of bytes and path, a ClassLabel column, lists of numbers as soft labels."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data._images import Picture, decode
from ..errors import BundleError, UsageError, suggest
from ..options import opt
from ._checks import hard_labels, labels_of
from ._importer import Foreign
from ._sidecar import described, read_sidecar
from ._sources import Sources, shown

__all__ = ["IMPORTER"]

IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
MAX_ROWS = 10_000_000
MAX_BYTES = 32 * 2**30
"""Of all columns, uncompressed, as the file declares."""
MAX_CLASSES = 100_000
EXPORT = b"ddset-export"
"""Key of the schema under which `ddlabel export` describes its files."""


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Pictures are decoded from their bytes; paths are not looked at. Needs pyarrow (`pip install 'ddlabel[hf]'`)."""

    image: str | None = opt(None, "column of pictures; auto is 'image' or 'img'")
    label: str | None = opt(None, "column of class numbers; auto is 'label', 'labels' or 'fine_label'")
    soft: str | None = opt(None, "column of lists of numbers, a soft label each; auto is the only such column")

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """One file that begins as parquet does."""
        return len(sources.paths) == 1 and sources.begins(sources.paths[0], 4) == b"PAR1"

    def read(self, sources: Sources) -> Foreign:
        """All rows."""
        path = sources.only
        name = shown(path)
        table = _table(bytes(sources.read(path)), name)
        columns = list(table.column_names)
        pictures = _pictures(_values(table, _column(self.image, IMAGES, columns, "image", name)), name)
        label = _column(self.label, LABELS, columns, "label", name)
        labels = hard_labels(_numbers(_values(table, label), name, label), name)
        lists = [column for column in columns if _is_list(table.schema.field(column).type)]
        soft = None
        if self.soft is not None or lists:
            if self.soft is None and len(lists) > 1:
                raise UsageError(
                    f"{name}: {len(lists)} columns of lists ({_shown(lists)})",
                    field="soft",
                    hint="say --set soft=COLUMN",
                )
            column = _column(self.soft, lists, lists, "soft", name)
            nothing, soft = labels_of(_numbers(_values(table, column), name, column), name)
            if nothing is not None or soft is None:
                raise BundleError(f"{name}: column {ascii(column)[:60]} holds no lists of equal length")
        classes = _class_names(table.schema.metadata, label, name)
        foreign = Foreign(
            name=name,
            images=pictures,
            values=None,
            labels=labels,
            soft=soft,
            classes=classes,
            by_name=classes is not None,
            said={"labels": name} | ({"classes": f"{name}, its features"} if classes else {}),
        )
        export = (table.schema.metadata or {}).get(EXPORT)
        return foreign if export is None else described(foreign, read_sidecar(export, name), name)


def _table(data: bytes, name: str) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("reading parquet needs pyarrow", field="format", hint="pip install 'ddlabel[hf]'") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        if file.metadata.num_rows > MAX_ROWS or size > MAX_BYTES:
            raise BundleError(f"{name}: {file.metadata.num_rows} rows of {size} bytes, expected at most {MAX_ROWS}")
        return file.read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BundleError(f"{name}: not a readable parquet file ({ascii(str(error))[1:80]})") from error


def _column(wanted: str | None, usual: Sequence[str], columns: Sequence[str], option: str, name: str) -> str:
    found = [column for column in (usual if wanted is None else (wanted,)) if column in columns]
    if not found:
        raise UsageError(
            f"{name}: no column '{(wanted or usual[0])[:60]}'{suggest(wanted or usual[0], map(_plain, columns[:40]))}",
            field=option,
            hint=f"name it with --set {option}=COLUMN",
        )
    return found[0]


def _values(table: Any, column: str) -> list[Any]:
    values: list[Any] = table.column(column).to_pylist()
    return values


def _pictures(values: Sequence[Any], name: str) -> Tensor:
    arrays = []
    for row, value in enumerate(values):
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise BundleError(f"{name}: row {row} has no bytes of a picture (files beside the table are not read)")
        arrays.append(decode(Picture(f"{name}, row {row}", data), None))
    if not arrays:
        raise BundleError(f"{name}: no rows")
    sizes = {array.shape[1:] for array in arrays}
    if len(sizes) > 1:
        raise BundleError(f"{name}: pictures of {len(sizes)} sizes, expected one", hint="resize them first")
    channels = max(len(array) for array in arrays)
    return torch.from_numpy(np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays]))


def _numbers(values: Sequence[Any], name: str, column: str) -> Tensor:
    try:
        return torch.from_numpy(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{name}: column {ascii(column)[:60]} holds no numbers, or lists of several lengths"
        ) from error


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    of_lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(of_lists and types.is_floating(kind.value_type))


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str, name: str) -> tuple[str, ...] | None:
    """Names of a ClassLabel feature, in label order; None where the table has none."""
    try:
        said = json.loads((metadata or {})[b"huggingface"])
        feature = said["info"]["features"][label]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names) or len(names) > MAX_CLASSES:
        raise BundleError(f"{name}: its feature {ascii(label)[:60]} has names that are no list of texts")
    return tuple(names)


def _plain(column: str) -> str:
    return ascii(column)[1:-1][:60]


def _shown(columns: Sequence[str]) -> str:
    return ", ".join(map(_plain, columns[:20]))


IMPORTER = Parquet
