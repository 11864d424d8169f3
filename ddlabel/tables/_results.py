"""The file of results that `ddlabel recipes run` adds to: one JSON object a line, one line a number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..errors import ResourceError, UsageError

__all__ = ["Record", "append_results", "latest", "paired", "read_results"]

Record = Mapping[str, Any]
"""`row`, `cell`, `budget`, `unit`, `published`, `ours`, `n`, `interval` (half width of the 95 % interval), `values`,
`seeds`, `stored_bytes`, `data`, `stands_for`, `digest`, `commands`, `host`, `commit`, `seconds`."""


def append_results(records: Sequence[Record], path: Path) -> None:
    """Add the records that the file does not have yet: of another row, cell, budget or bundle.

    Raises:
        UsageError: the file is there and is no file of results.
        ResourceError: it cannot be read or written.
    """
    try:
        known = {_identity(record) for record in read_results(path)} if path.exists() else set()
        fresh = [record for record in records if _identity(record) not in known]
        lines = "".join(json.dumps(record, sort_keys=True, allow_nan=False) + "\n" for record in fresh)
        with path.open("ab") as file:
            content = path.read_bytes()
            file.truncate(content.rfind(b"\n") + 1)  # without what a kill left of a line
            file.write(lines.encode())
    except OSError as error:
        raise ResourceError(f"results cannot be written to '{path}' ({error.strerror})") from error


def read_results(path: Path) -> list[dict[str, Any]]:
    """All records of a file; an unfinished last line, which a kill may leave, is passed over.

    Raises:
        UsageError: a line is no record, naming it.
    """
    records = []
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            record = json.loads(line)
            _identity(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"'{path}' has no result in line {number}", field="folder") from error
        records.append(record)
    return records


def latest(records: Iterable[Record]) -> dict[tuple[str, str, str], Record]:
    """The last record of every number, by row, cell and budget."""
    return {(record["row"], record["cell"], record["budget"]): record for record in records}


def paired(record: Record, other: Record) -> tuple[float, float | None, int]:
    """The first minus the second at the seeds that both have, its standard error, and the number of pairs.

    The error is None for one pair.

    Raises:
        ValueError: no seed is in both.
    """
    first, second = (dict(zip(each["seeds"], each["values"], strict=True)) for each in (record, other))
    differences = [value - second[seed] for seed, value in first.items() if seed in second]
    if not differences:
        raise ValueError(f"{record['row']} and {other['row']} have no seed in common")
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return fmean(differences), error, len(differences)


def _identity(record: Record) -> tuple[str, ...]:
    """Of which bundle and which number a record is.

    Raises:
        KeyError, TypeError: it is no record.
    """
    parts = tuple(record[name] for name in ("row", "cell", "budget", "digest"))
    if not all(isinstance(part, str) for part in parts):
        raise TypeError(f"expected texts, found {parts}")
    return parts
