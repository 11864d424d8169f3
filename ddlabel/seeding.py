"""Named random streams: every draw in ddlabel comes from `generator(seed, *path)`.

The global generators of torch, numpy and Python are never read or set, so runs do not disturb each other, and a
stream does not change when code elsewhere draws more or fewer numbers.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["generator", "stream_seed"]


def stream_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the stream `path` of `seed`: the head of sha256 over both, as JSON.

    >>> stream_seed(0, "distill", "step", 1) == stream_seed(0, "distill", "step", 2)
    False
    """
    digest = hashlib.sha256(json.dumps([seed, *path]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A fresh CPU generator for the stream `path` of `seed`; draw on the CPU, then move to the device."""
    import torch

    source = torch.Generator()
    source.manual_seed(stream_seed(seed, *path))
    return source
