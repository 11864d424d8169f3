"""What takes long to make of a data set, kept beside a key of its source: whitenings here, images in `_decoded`.

Files lie in $DDLABEL_CACHE_DIR, else $XDG_CACHE_HOME/ddlabel, else ~/.cache/ddlabel. They are written to a temporary
name and renamed, so two processes may fill the cache at once, and what a killed one left is removed by the next; a
damaged file is not trusted but made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ResourceError
from ..events import Event, OnEvent
from ..fsio import atomic_output

__all__ = ["cache_folder", "read_tensors", "write_tensors"]

VERSION = 1
"""Part of every digest."""


def cache_folder() -> Path | None:
    """Where cached files lie; None when there is no home."""
    named = os.environ.get("DDLABEL_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "ddlabel"
    home = os.environ.get("HOME")
    return Path(home) / ".cache" / "ddlabel" if home else None


def read_tensors(key: str, names: Sequence[str]) -> tuple[tuple[Tensor, ...], dict[str, str]] | None:
    """Tensors by name and notes stored under a key; None when there are none, or they are damaged."""
    from safetensors import SafetensorError, safe_open

    folder = cache_folder()
    path = None if folder is None else folder / f"{key}.safetensors"
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = tuple(file.get_tensor(name) for name in names)
            notes = json.loads(file.metadata()["notes"])
        if not isinstance(notes, dict) or notes.get("sha256") != _digest(tensors):
            return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    return tensors, notes


def write_tensors(
    key: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str], what: str, on_event: OnEvent
) -> None:
    """Store tensors; a folder that cannot be written costs a message, "`what` not cached", nothing else."""
    from safetensors.torch import save

    folder = cache_folder()
    if folder is None:
        on_event(Event(phase="data", message=f"note: no home folder, {what} not cached"))
        return
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    noted = json.dumps({**notes, "sha256": _digest(tuple(whole.values()))}, sort_keys=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_output(folder / f"{key}.safetensors", force=True, durable=False) as file:
            file.write(save(whole, {"notes": noted}))
    except OSError as error:
        on_event(Event(phase="data", message=f"note: {what} not cached ({folder}: {error.strerror})"))
    except ResourceError as error:
        on_event(Event(phase="data", message=f"note: {what} not cached ({error.message})"))


def _digest(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256(f"{VERSION} {tuple(tensors[0].shape)}".encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
