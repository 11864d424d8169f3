"""Decoded images kept beside a key of their source, so that 50,000 small pictures are decoded once.

Files lie in $DDLABEL_CACHE_DIR, else $XDG_CACHE_HOME/ddlabel, else ~/.cache/ddlabel. They are written to a temporary
name and renamed, so two processes may fill the cache at once; a damaged file is not trusted but made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path

import torch
from torch import Tensor

from ..events import Event, OnEvent

__all__ = ["cache_folder", "read_cache", "write_cache"]

VERSION = 1
"""Raised when the rules of decoding change."""


def cache_folder() -> Path | None:
    """Where cached images lie; None when there is no home."""
    named = os.environ.get("DDLABEL_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "ddlabel"
    home = os.environ.get("HOME")
    return Path(home) / ".cache" / "ddlabel" if home else None


def read_cache(key: str) -> tuple[Tensor, Tensor, dict[str, str]] | None:
    """Pixels, labels and notes stored under a key; None when there are none, or they are damaged."""
    from safetensors import SafetensorError, safe_open

    folder = cache_folder()
    path = None if folder is None else folder / f"{key}.safetensors"
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            pixels, labels = file.get_tensor("pixels"), file.get_tensor("labels")
            notes = json.loads(file.metadata()["notes"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    if notes.get("sha256") != _digest(pixels, labels):
        return None
    return pixels, labels, notes


def write_cache(key: str, pixels: Tensor, labels: Tensor, notes: dict[str, str], on_event: OnEvent) -> None:
    """Store decoded images; a folder that cannot be written costs a message, nothing else."""
    from safetensors.torch import save

    folder = cache_folder()
    if folder is None:
        on_event(Event(phase="data", message="note: no home folder, decoded images are not cached"))
        return
    temporary = folder / f".{key}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    noted = json.dumps({**notes, "sha256": _digest(pixels, labels)}, sort_keys=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(save({"pixels": pixels.contiguous(), "labels": labels}, {"notes": noted}))
        temporary.replace(folder / f"{key}.safetensors")
    except OSError as error:
        on_event(Event(phase="data", message=f"note: decoded images are not cached ({folder}: {error.strerror})"))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _digest(pixels: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256(f"{VERSION} {tuple(pixels.shape)}".encode())
    digest.update(pixels.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(labels.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
