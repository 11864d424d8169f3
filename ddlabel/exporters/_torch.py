"""Files of `torch.save`, whose own writer hides what the disk says."""

from __future__ import annotations

import io
from typing import Any

import torch

from ._exporter import Sink

__all__ = ["save"]


def save(value: Any, stream: Sink) -> None:
    """Write what `torch.load(weights_only=True)` reads; held in memory first, so that a full disk is told as such.

    Raises:
        OSError: the stream cannot be written.
    """
    held = io.BytesIO()
    torch.save(value, held)
    stream.write(held.getbuffer())
