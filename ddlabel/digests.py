"""Identity: canonical JSON, and digests that do not depend on clock, host, tensor order or compression."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["canonical_json", "content_digest", "images_digest"]


def canonical_json(document: Any) -> bytes:
    """Sorted keys, no white space, UTF-8.

    Raises:
        ValueError: NaN or infinity.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8")


def content_digest(document: Mapping[str, Any]) -> str:
    """What a bundle says and holds, as sha256 of its manifest without storage, clock and host.

    Tensors enter by dtype, shape and digest of the array before compression. Same command, seed, thread count and
    machine give the same digest.
    """
    said = {key: value for key, value in document.items() if key != "storage"}
    said["history"] = [
        {key: value for key, value in entry.items() if key not in {"time", "host"}} for entry in said["history"]
    ]
    said["sections"] = sorted(
        (_identity(record) for record in said["sections"]), key=lambda record: str(record["name"])
    )
    return hashlib.sha256(canonical_json(said)).hexdigest()


def images_digest(tensors: Mapping[str, Any]) -> str:
    """Identity of an images section: sha256 over names, dtypes, shapes and digests of its tensors."""
    return hashlib.sha256(canonical_json(_unpacked(tensors))).hexdigest()


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key != "zip_bytes"}
    return kept | {"tensors": _unpacked(record["tensors"])}


def _unpacked(tensors: Mapping[str, Any]) -> dict[str, Any]:
    raw = {name: record.get("packed", record) for name, record in tensors.items()}
    return {name: [record["dtype"], record["shape"], record["sha256"]] for name, record in raw.items()}
