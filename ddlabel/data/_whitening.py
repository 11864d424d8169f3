"""ZCA of a training split, fitted once per machine: eigenvectors of 12,288 features take minutes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..events import OnEvent
from ..zca import Zca, fit_zca
from ._cache import read_tensors, write_tensors
from ._stored_pixels import Pixels, StoredPixels

__all__ = ["cached_zca"]

VERSION = 1
"""Raised when the rules of fitting change."""
PARTS = ("mean", "matrix", "inverse")
EPSILON = 0.1


def cached_zca(pixels: Pixels, on_event: OnEvent, *, epsilon: float = EPSILON) -> Zca:
    """`fit_zca` of uint8 pixels (n, c, h, w), or what it gave before, with the same bits.

    It lies where decoded images are cached, under sha256 of the pixels in their order, or of the digests of stored
    ones, epsilon, and what the last bits depend on: the version of torch and the number of threads.

    Raises:
        UsageError: as `fit_zca`.
    """
    key, features = _key(pixels, epsilon), math.prod(pixels.shape[1:])
    found = read_tensors(key, PARTS)
    if found is not None and _is_whitening(found[0], features):
        mean, matrix, inverse = found[0]
        return Zca(mean, matrix, inverse, epsilon)
    zca = fit_zca(pixels, epsilon)
    write_tensors(key, {part: getattr(zca, part) for part in PARTS}, {}, "the fitted ZCA is", on_event)
    return zca


def _is_whitening(parts: Sequence[Tensor], features: int) -> bool:
    shapes = [(1, features), (features, features), (features, features)]
    return shapes == [tuple(part.shape) for part in parts] and all(
        part.dtype == torch.float32 and bool(torch.isfinite(part).all()) for part in parts
    )


def _key(pixels: Pixels, epsilon: float) -> str:
    how = (VERSION, str(torch.__version__), torch.get_num_threads(), epsilon, tuple(pixels.shape))
    digest = hashlib.sha256(repr(how).encode())
    if isinstance(pixels, StoredPixels):
        digest.update(pixels.digests().data)
    else:
        for chunk in pixels.split(4096):
            digest.update(chunk.contiguous().numpy().data)
    return f"zca-{digest.hexdigest()}"
