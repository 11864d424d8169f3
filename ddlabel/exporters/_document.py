"""What the sidecar of an export says: where it comes from, what it holds, what is lost."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..interchange import SCHEMA, VERSION
from ..preprocess import data_of, describe_space
from ._exporter import Content, Description

__all__ = ["make_document"]


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
        "version": VERSION,
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
        **{key: value for key, value in description.more.items() if key != "classes"},
    }
