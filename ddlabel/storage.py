"""Where the bytes of a bundle go, and what labels cost beside images.

Three rules for the overhead of labels, because papers use different ones. All leave hard labels out of the growth:
`raw` is float32 label values over uint8 image bytes; `stored` is label bytes in this file over image bytes in this
file; `ladd_zip` is LADD's (arXiv:2409.16239): a zip of uint8 images, hard labels and float32 labels over a zip of
images and hard labels, less one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

__all__ = ["equal_ipc", "feature_size", "report", "zip_bytes", "zip_bytes_of"]

_NOT_DISTILLED = {"teacher", "trajectory", "state", "scores"}
ZIP_LEVEL = 6

Record = Mapping[str, Any]


def zip_bytes(parts: Sequence[bytes | memoryview]) -> int:
    """Size of a zip that holds each part as one deflated member (level 6), without names and directory.

    The `zip_bytes` of a section are those of what LADD counts: uint8 pixels of images, one-hot float32 hard labels,
    float32 values of richer labels.
    """
    return sum(zip_bytes_of([part]) for part in parts)


def zip_bytes_of(pieces: Iterable[bytes | memoryview]) -> int:
    """The same for one part that comes in pieces, which need not be in memory together."""
    packer = zlib.compressobj(ZIP_LEVEL)
    return sum(len(packer.compress(piece)) for piece in pieces) + len(packer.flush())


def report(
    sections: Sequence[Record],
    classes: int | None,
    *,
    header: int,
    manifest: int,
    padding: int,
    unlisted: int = 0,
) -> dict[str, Any]:
    """The storage report; its total is the size of the file, exactly.

    Args:
        sections: the section table.
        classes: number of classes k, or None when unknown.
        header, manifest, padding: bytes of the container.
        unlisted: bytes of foreign tensors that no section lists.

    Returns:
        Bytes by section, and summed over images and each label kind (`raw` is the reference: uint8 pixels, float32
        label values, one-hot float32 hard labels; `stored` what the file spends), bytes of stored augmentation
        state, overheads as fractions or None, bits per label view, equivalent ipc.
    """
    entries = {
        record["name"]: {"kind": record["kind"], "raw": _raw(record, classes), "stored": _stored(record)}
        for record in sections
    }
    container = {"header": header, "manifest": manifest, "padding": padding, "unlisted": unlisted}
    labels = [record for record in sections if record["kind"] == "labels"]
    roles = sorted({_role(record) for record in labels})
    return {
        "total": sum(container.values()) + sum(entry["stored"] for entry in entries.values()),
        "container": container,
        "sections": entries,
        "images": _sums(entries, [record for record in sections if record["kind"] == "images"]),
        "labels": {role: _sums(entries, [record for record in labels if _role(record) == role]) for role in roles},
        "augmentation_state": sum(map(_augmentation_bytes, labels)),
        "overhead": _overheads(sections, entries),
        "bits_per_view": {
            record["name"]: 8 * entries[record["name"]]["stored"] / _views(record)
            for record in labels
            if _views(record)
        },
        "equivalent_ipc": _equivalent_ipc(sections, entries, classes),
    }


def equal_ipc(ipc: int | Fraction, image_bytes: float, label_bytes: float) -> tuple[int, int]:
    """How many plain images per class the same bytes are, both ways (DCPI's section on memory).

    Args:
        ipc: images per class with labels.
        image_bytes: of one image, above 0.
        label_bytes: of its labels.

    Returns:
        Images with labels that fit the bytes of `ipc` plain ones, and plain images for the bytes of `ipc` with labels;
        whole ones alone.

    >>> equal_ipc(50, 3072, 128), equal_ipc(10, 12288, 8192)
    ((48, 52), (6, 16))
    """
    image, label = Fraction(image_bytes), Fraction(label_bytes)
    return math.floor(ipc * image / (image + label)), math.floor(ipc * (image + label) / image)


def feature_size(record: Record) -> int | None:
    """Numbers in one label of a section of feature or attention labels; None of other sections."""
    shape = record["parameters"].get("shape")
    if record["kind"] != "labels" or record.get("domain") != "feature":
        return None
    fits = isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)
    return math.prod(shape) if fits else None


def _role(record: Record) -> str:
    return str(record.get("role", record["name"]))


def _sums(entries: Mapping[str, Any], records: Sequence[Record]) -> dict[str, int]:
    return {rule: sum(entries[record["name"]][rule] for record in records) for rule in ("raw", "stored")}


def _stored(record: Record) -> int:
    return int(sum(tensor["bytes"] for tensor in record["tensors"].values()))


def _arrays(record: Record) -> list[Record]:
    """The section's tensors before compression."""
    return [tensor.get("packed", tensor) for tensor in record["tensors"].values()]


def _views(record: Record) -> int:
    """Labelled views in all: images times views per image."""
    prefix = f"{record['name']}.shared"
    own = (tensor for name, tensor in record["tensors"].items() if not name.startswith(prefix))
    shape = next((tensor.get("packed", tensor)["shape"] for tensor in own), ())
    return int(shape[0]) * int(record.get("views", 1)) if shape else 0


def _raw(record: Record, classes: int | None) -> int:
    if record["kind"] == "images":
        return sum(math.prod(array["shape"]) for array in _arrays(record))
    size = feature_size(record)
    if size is not None:
        prefix = f"{record['name']}.shared_norm"
        norm = (value for name, value in record["tensors"].items() if name.startswith(prefix))
        return 4 * size * _views(record) + sum(int(value.get("packed", value)["bytes"]) for value in norm)
    if record["kind"] == "labels" and classes is not None:
        return 4 * classes * _views(record)
    return int(sum(array["bytes"] for array in _arrays(record)))


def _augmentation_bytes(record: Record) -> int:
    """Bytes of `labels.<kind>.augmentation…`: stored draws, where views are not a function of a seed."""
    prefix = f"{record['name']}.augmentation"
    return int(sum(tensor["bytes"] for name, tensor in record["tensors"].items() if name.startswith(prefix)))


def _overheads(sections: Sequence[Record], entries: Mapping[str, Any]) -> dict[str, float | None]:
    images = next((record for record in sections if record["name"] == "images"), None)
    labels = [record for record in sections if record["kind"] == "labels"]
    rich = [record for record in labels if _role(record) != "hard"]
    if images is None or not rich:
        return {"raw": None, "stored": None, "ladd_zip": None}
    base, extra = _sums(entries, [images]), _sums(entries, rich)
    plain = [images, *(record for record in labels if _role(record) == "hard")]
    return {
        "raw": _ratio(extra["raw"], base["raw"]),
        "stored": _ratio(extra["stored"], base["stored"]),
        "ladd_zip": _ratio(_zipped(rich), _zipped(plain)),
    }


def _ratio(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


def _zipped(records: Sequence[Record]) -> int | None:
    """Measured zip sizes added up; None when one was not measured."""
    sizes = [record.get("zip_bytes") for record in records]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _equivalent_ipc(sections: Sequence[Record], entries: Mapping[str, Any], classes: int | None) -> float | None:
    """Images per class that the bytes of all but teachers, states and scores would buy, each stored like these."""
    images = next((record for record in sections if record["name"] == "images"), None)
    if images is None or not classes:
        return None
    count = _views(images)
    hard = sum(entries[record["name"]]["stored"] for record in sections if record["name"] == "labels.hard")
    plain = entries["images"]["stored"] + hard
    if not count or not plain:
        return None
    spent = sum(entry["stored"] for entry in entries.values() if entry["kind"] not in _NOT_DISTILLED)
    return float(spent / (plain / count) / classes)
