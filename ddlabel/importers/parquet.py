"""Hugging Face parquet: an image column of bytes and path, a ClassLabel column, lists of numbers as soft labels."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data._images import Picture, decode
from ..errors import BundleError, UsageError, suggest
from ..interchange import PARQUET_EXPORT, PARQUET_FEATURES
from ..options import opt
from ._checks import hard_labels, labels_of
from ._exported import LABELS as EXPORTED
from ._exported import left_out
from ._importer import Foreign
from ._pictures import stack
from ._sidecar import described
from ._sources import Sources, shown

__all__ = ["IMPORTER"]

IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
MAX_ROWS = 10_000_000
MAX_BYTES = 32 * 2**30
"""Of all columns, uncompressed, as the file declares."""
MAX_RATIO, FREE_BYTES = 200, 256 * 2**20
"""How many times its file a column that is read may be, decoded; and up to which size any ratio is taken."""
BATCH_BYTES, BATCH_ROWS = 64 * 2**20, 2**16
"""What is decoded at a time at most."""
NUMBER_BYTES = 8
MAX_CLASSES = 100_000


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
        table = _open(bytes(sources.read(path)), name)
        schema = table.file.schema_arrow
        columns, metadata = list(schema.names), schema.metadata or {}
        twice = next((column for column, count in Counter(columns).items() if count > 1), None)
        if twice is not None:
            raise BundleError(f"{name}: two columns are called {ascii(twice)[:60]}")
        export = metadata.get(PARQUET_EXPORT.encode())
        label = _column(self.label, LABELS, columns, "label", name)
        lists = [column for column in columns if _is_list(schema.field(column).type)]
        if export is not None and self.soft is not None:
            raise UsageError(f"{name} says itself which labels it holds", field="soft", hint="drop --set soft")
        soft = None if export is not None else self._soft_column(lists, columns, name)
        classes = _class_names(metadata, label, name) if export is None else None
        foreign = Foreign(
            name=name,
            images=_pictures(table, _column(self.image, IMAGES, columns, "image", name)),
            values=None,
            labels=hard_labels(_numbers(table, label), name),
            soft=None if soft is None else _soft(_numbers(table, soft), soft, name),
            classes=classes,
            by_name=classes is not None,
            said={"labels": name} | ({"classes": f"{name}, its features"} if classes else {}),
        )
        if export is None:
            return dataclasses.replace(foreign, notes=left_out([each for each in lists if each != soft], name))
        richer = {column: _numbers(table, column) for column in columns if column.startswith(EXPORTED)}
        return described(foreign, export, sources, path, arrays=richer)

    def _soft_column(self, lists: Sequence[str], columns: Sequence[str], name: str) -> str | None:
        """The column of soft labels, where there is one."""
        if self.soft is None and len(lists) > 1:
            raise UsageError(
                f"{name}: {len(lists)} columns of lists ({_shown(lists)})",
                field="soft",
                hint="say --set soft=COLUMN",
            )
        if self.soft is not None and self.soft in columns and self.soft not in lists:
            raise UsageError(
                f"{name}: column '{_plain(self.soft)}' holds no lists of floats",
                field="soft",
                hint=f"its columns of lists: {_shown(lists) or 'none'}",
            )
        return _column(self.soft, lists, lists, "soft", name) if lists or self.soft is not None else None


@dataclass(frozen=True)
class Table:
    """An open file."""

    file: Any
    """A `ParquetFile`."""
    name: str
    """For messages."""
    limit: int
    """Bytes that what is read of it may take."""


def _open(data: bytes, name: str) -> Table:
    """A file whose metadata is read."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("reading parquet needs pyarrow", field="format", hint="pip install 'ddlabel[hf]'") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BundleError(f"{name}: not a readable parquet file ({ascii(str(error))[1:80]})") from error
    if file.metadata.num_rows > MAX_ROWS or size > MAX_BYTES:
        raise BundleError(f"{name}: {file.metadata.num_rows} rows of {size} bytes, expected at most {MAX_ROWS}")
    return Table(file, name, max(FREE_BYTES, MAX_RATIO * len(data)))


def _batches(table: Table, column: str) -> Iterator[list[Any]]:
    """The values of one column, a few rows at a time, within the limit."""
    import pyarrow

    rows, decoded = _rows_at_a_time(table, column), 0
    try:
        for batch in table.file.iter_batches(rows, columns=[column], use_threads=False):
            decoded += batch.get_total_buffer_size()
            _check_decoded(table, decoded, f"column {ascii(column)[:60]}")
            yield batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise BundleError(
            f"{table.name}: column {ascii(column)[:60]} cannot be read ({ascii(str(error))[1:80]})"
        ) from error


def _rows_at_a_time(table: Table, column: str) -> int:
    """How many rows cannot take more than a batch may, whatever a dictionary makes of them.

    Raises:
        BundleError: the column says that it is larger than the limit.
    """
    metadata, largest, size = table.file.metadata, 1, 0
    leaves = [
        place
        for place in range(metadata.num_columns)
        if f"{metadata.schema.column(place).path}.".startswith(f"{column}.")
    ]
    has_texts = any(metadata.schema.column(leaf).physical_type == "BYTE_ARRAY" for leaf in leaves)
    for index in range(metadata.num_row_groups):
        chunks = [metadata.row_group(index).column(leaf) for leaf in leaves]
        stored = sum(chunk.total_uncompressed_size for chunk in chunks)
        largest = max(largest, stored)
        size += max(stored, *(NUMBER_BYTES * chunk.num_values for chunk in chunks))
    _check_decoded(table, size, f"column {ascii(column)[:60]}")
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest)) if has_texts else BATCH_ROWS


def _check_decoded(table: Table, size: int, what: str) -> None:
    if size > table.limit:
        raise BundleError(
            f"{table.name}: {what} holds more than {table.limit} bytes once it is decoded",
            hint=f"a file may be {MAX_RATIO} times its size; is it the table that you mean?",
        )


def _column(wanted: str | None, usual: Sequence[str], columns: Sequence[str], option: str, name: str) -> str:
    found = [column for column in (usual if wanted is None else (wanted,)) if column in columns]
    if not found:
        raise UsageError(
            f"{name}: no column '{(wanted or usual[0])[:60]}'{suggest(wanted or usual[0], map(_plain, columns[:40]))}",
            field=option,
            hint=f"name it with --set {option}=COLUMN",
        )
    return found[0]


def _pictures(table: Table, column: str) -> Tensor:
    arrays: list[np.ndarray[Any, Any]] = []
    name, size = table.name, 0
    for values in _batches(table, column):
        for value in values:
            data = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(data, bytes):
                raise BundleError(
                    f"{name}: row {len(arrays)} has no bytes of a picture (files beside the table are not read)"
                )
            arrays.append(decode(Picture(f"{name}, row {len(arrays)}", data), None))
            size += len(data) + arrays[-1].nbytes  # a batch may hold each value once and the rows as places of it
            _check_decoded(table, size, "its column of pictures")
    if not arrays:
        raise BundleError(f"{name}: no rows")
    return stack(arrays, name)


def _numbers(table: Table, column: str) -> Tensor:
    """All values of a column of numbers, or of lists of equal length, float64."""
    try:
        parts = [np.asarray(values, dtype=np.float64) for values in _batches(table, column) if values]
        return torch.from_numpy(np.concatenate(parts))
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleError(
            f"{table.name}: column {ascii(column)[:60]} holds no numbers, or lists of several lengths"
        ) from error


def _soft(values: Tensor, column: str, name: str) -> Tensor:
    nothing, soft = labels_of(values, name)
    if nothing is not None or soft is None:
        raise BundleError(f"{name}: column {ascii(column)[:60]} holds no lists of equal length")
    return soft


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    of_lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(of_lists and types.is_floating(kind.value_type))


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str, name: str) -> tuple[str, ...] | None:
    """Names of a ClassLabel feature, in label order; None where the table has none."""
    try:
        said = json.loads((metadata or {})[PARQUET_FEATURES.encode()])
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
