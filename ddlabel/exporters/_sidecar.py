"""Whose a folder is that an export would replace, by the sidecar in it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import Any

from ..errors import UsageError
from ..interchange import SCHEMA, SIDECAR

__all__ = ["check_ours"]

_MAX_BYTES = 2**30
"""Of a sidecar that is read to see whose a folder is."""


def check_ours(folder: str) -> None:
    """Refuse a folder that is not an export, or holds files that an export did not write as they are.

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
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted([*files, *links]):
            path = os.path.join(root, name)
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            said = listed.get(relative)
            if relative == SIDECAR or (said is not None and _is_as_written(path, said)):
                continue
            what = "is not of its export" if said is None else "was changed after the export"
            raise UsageError(
                f"folder '{folder}' holds '{relative}', which {what}; --force does not remove it",
                field="output",
                hint="move it away, or name another folder",
            )


def _is_as_written(path: str, said: Any) -> bool:
    """Whether a file has the size and the digest that the sidecar says."""
    try:
        status = os.lstat(path)
        if not isinstance(said, dict) or not stat.S_ISREG(status.st_mode) or status.st_size != said.get("bytes"):
            return False
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == said.get("sha256")
    except OSError:
        return False


def _listed(path: str) -> dict[str, Any] | None:
    """What is said of the files of an export, by name; None where the file is no sidecar."""
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
    return files if isinstance(files, dict) else None
