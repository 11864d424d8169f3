"""Whose a folder is that an export would replace, by the sidecar in it."""

from __future__ import annotations

import json
import os

from ..errors import UsageError
from ..interchange import SCHEMA, SIDECAR

__all__ = ["check_ours"]

_MAX_BYTES = 2**30
"""Of a sidecar that is read to see whose a folder is."""


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
