"""Where the bytes of a bundle go, and what labels cost beside images.

Three rules for the overhead of labels, because papers use different ones:
`raw` is float32 label values over uint8 image bytes; `stored` is label bytes in this file over image bytes in this
file; `ladd_zip` is LADD's (arXiv:2409.16239): the growth of a zip of uint8 images and float32 labels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["report", "zip_bytes"]

_NOT_DISTILLED = {"teacher", "trajectory", "state"}
ZIP_LEVEL = 6


def zip_bytes(parts: Sequence[bytes | memoryview]) -> int:
    """Size of a zip that holds each part as one deflated member, without names and directory."""
    return sum(len(zlib.compress(part, ZIP_LEVEL)) for part in parts)


def report(
    sections: Sequence[Mapping[str, Any]],
    classes: int | None,
    *,
    header: int,
    manifest: int,
    padding: int,
) -> dict[str, Any]:
    """The storage report; its total is the size of the file, exactly.

    Args:
        sections: the section table.
        classes: number of classes k, or None when unknown.
        header, manifest, padding: bytes of the container.

    Returns:
        Bytes by section (`raw` is the reference: uint8 pixels, float32 label values, one-hot float32 hard labels;
        `stored` what the file spends), overheads as fractions or None, bits per label view, equivalent ipc.
    """
    entries = {
        record["name"]: {"kind": record["kind"], "raw": _raw(record, classes), "stored": _stored(record)}
        for record in sections
    }
    container = {"header": header, "manifest": manifest, "padding": padding}
    return {
        "total": sum(container.values()) + sum(entry["stored"] for entry in entries.values()),
        "container": container,
        "sections": entries,
        "overhead": _overheads(sections, entries),
        "bits_per_view": _bits_per_view(sections, entries),
        "equivalent_ipc": _equivalent_ipc(sections, entries, classes),
    }


def _stored(record: Mapping[str, Any]) -> int:
    return int(sum(tensor["bytes"] for tensor in record["tensors"].values()))


def _raw(record: Mapping[str, Any], classes: int | None) -> int:
    shapes = [tensor.get("packed", tensor)["shape"] for tensor in record["tensors"].values()]
    if record["kind"] == "images":
        return math.prod(record["tensors"]["images.pixels"]["shape"])
    if record["kind"] == "labels" and classes is not None and shapes:
        return 4 * classes * int(shapes[0][0]) * int(record.get("views", 1))
    return int(sum(tensor.get("packed", tensor)["bytes"] for tensor in record["tensors"].values()))


def _overheads(sections: Sequence[Mapping[str, Any]], entries: Mapping[str, Any]) -> dict[str, float | None]:
    images = next((record for record in sections if record["kind"] == "images"), None)
    rich = [record for record in sections if record["kind"] == "labels" and record.get("role") != "hard"]
    if images is None or not rich:
        return {"raw": None, "stored": None, "ladd_zip": None}
    base = entries[images["name"]]
    sums = {rule: sum(entries[record["name"]][rule] for record in rich) for rule in ("raw", "stored")}
    zips = [record.get("zip_bytes") for record in rich]
    zipped = None
    if images.get("zip_bytes") and all(size is not None for size in zips):
        zipped = sum(size for size in zips if size is not None) / images["zip_bytes"]
    return {
        "raw": sums["raw"] / base["raw"] if base["raw"] else None,
        "stored": sums["stored"] / base["stored"] if base["stored"] else None,
        "ladd_zip": zipped,
    }


def _bits_per_view(sections: Sequence[Mapping[str, Any]], entries: Mapping[str, Any]) -> dict[str, float]:
    bits = {}
    for record in sections:
        shapes = [tensor.get("packed", tensor)["shape"] for tensor in record["tensors"].values()]
        if record["kind"] == "labels" and shapes and shapes[0][0]:
            views = int(shapes[0][0]) * int(record.get("views", 1))
            bits[record["name"]] = 8 * entries[record["name"]]["stored"] / views
    return bits


def _equivalent_ipc(
    sections: Sequence[Mapping[str, Any]], entries: Mapping[str, Any], classes: int | None
) -> float | None:
    """Images per class that the bytes of images, labels and transforms would buy, stored plainly like these."""
    images = next((record for record in sections if record["kind"] == "images"), None)
    if images is None or not classes:
        return None
    count = images["tensors"]["images.pixels"]["shape"][0]
    hard = sum(entries[record["name"]]["stored"] for record in sections if record.get("role") == "hard")
    plain = entries["images"]["stored"] + hard
    if not count or not plain:
        return None
    spent = sum(
        entry["stored"]
        for name, entry in entries.items()
        if entry["kind"] not in _NOT_DISTILLED and not name.startswith("scores.")
    )
    return float(spent / (plain / count) / classes)
