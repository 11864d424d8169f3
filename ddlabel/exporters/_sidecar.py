"""`ddset-export.json`, which every export has: where it comes from, what it holds, what is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..errors import UsageError
from ..preprocess import data_of, describe_space
from ._exporter import Content, Description

__all__ = ["SCHEMA", "SIDECAR", "check_ours", "encode", "make_document", "sidecar_of"]

SIDECAR = "ddset-export.json"
SCHEMA = "ddlabel.export"
_MAX_BYTES = 2**30
"""Of a sidecar that is read to see whose a folder is."""


def sidecar_of(path: str) -> str:
    """Where the sidecar of an export of one file lies: beside it, `FILE.ddset-export.json`."""
    return f"{path}.{SIDECAR}"


def make_document(name: str, content: Content, description: Description, measured: Any) -> dict[str, Any]:
    """The sidecar without its list of files.

    Args:
        name: of the format.
        content, description: what is exported.
        measured: the accuracies of `--measure`, or None.
    """
    bundle, data = content.bundle, data_of(content.bundle)
    counts = [0] * len(content.stored.classes)
    for label in content.stored.labels.tolist():
        counts[label] += 1
    classes = [
        {"index": index, "name": label, "images": counts[index]} for index, label in enumerate(content.stored.classes)
    ]
    for key, values in description.more.get("classes", {}).items():
        for entry, value in zip(classes, values, strict=True):
            entry[key] = value
    return {
        "schema": SCHEMA,
        "version": 1,
        "format": name,
        "ddlabel": __version__,
        "source": {
            "content": bundle.content,
            "images": bundle.images_digest(),
            "history": [entry["stage"] for entry in bundle.manifest.history],
        },
        "data": {key: data[key] for key in ("name", "channels", "height", "width", "flip", "fingerprint")},
        "space": describe_space(content.stored.space),
        "classes": classes,
        "images": {"count": len(content.stored), **description.images},
        "labels": dict(description.labels),
        "student_lr": content.lr,
        "lost": list(description.lost),
        "measured": measured,
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """The bytes of a sidecar: sorted keys, no NaN."""
    text = json.dumps(document, sort_keys=True, allow_nan=False, indent=1, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "surrogatepass")


def check_ours(folder: str) -> None:
    """Refuse a folder that is not an export, or holds files that an export did not write.

    Raises:
        UsageError: replacing it would lose something of somebody else.
    """
    listed = _listed(os.path.join(folder, SIDECAR))
    if listed is None:
        raise UsageError(
            f"folder '{folder}' has no {SIDECAR} of an export, --force does not replace it",
            field="output",
            hint="name another folder, or remove it yourself",
        )
    known = {SIDECAR, *listed}
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted([*files, *links]):
            relative = os.path.relpath(os.path.join(root, name), folder)
            if relative.replace(os.sep, "/") not in known:
                raise UsageError(
                    f"folder '{folder}' holds '{relative}', which is not of its export; --force does not remove it",
                    field="output",
                    hint="move it away, or name another folder",
                )


def _listed(path: str) -> set[str] | None:
    """Names of the files of an export; None where the file is no sidecar."""
    try:
        if os.path.islink(path) or os.stat(path).st_size > _MAX_BYTES:
            return None
        with open(path, "rb") as file:
            document = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return None
    files = document.get("files")
    return set(files) if isinstance(files, dict) else None
