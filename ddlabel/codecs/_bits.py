"""Small whole numbers in few bits: rows of codes as rows of bytes, the first code in the lowest bits."""

from __future__ import annotations

import math

import numpy as np

from ..errors import BundleError
from ._blocks import Array

__all__ = ["pack_rows", "packed_width", "unpack_rows"]


def packed_width(count: int, bits: int) -> int:
    """Bytes of `count` codes."""
    return -(-count * bits // 8)


def pack_rows(codes: Array, bits: int) -> Array:
    """Codes (m, k) below 2^bits as bytes (m, ceil(k bits / 8)) uint8; the bits behind the last code are 0."""
    if bits == 8:
        return codes.astype(np.uint8)
    rows, count = codes.shape
    group = 8 // math.gcd(8, bits)  # codes that fill whole bytes
    kind = _word(group * bits)
    padded = np.zeros((rows, -(-count // group) * group), kind)
    padded[:, :count] = codes
    words = padded[:, 0::group].copy()
    for index in range(1, group):
        words |= padded[:, index::group] << kind.type(index * bits)
    spread = words.astype(kind.newbyteorder("<"), copy=False).view(np.uint8).reshape(rows, -1, kind.itemsize)
    used = spread[:, :, : group * bits // 8].reshape(rows, -1)
    return np.ascontiguousarray(used[:, : packed_width(count, bits)])


def unpack_rows(packed: Array, bits: int, count: int, name: str = "codes") -> Array:
    """Codes (m, count) uint8 of bytes (m, ceil(count bits / 8)).

    Raises:
        BundleError: bits behind the last code that are not 0.
    """
    if bits == 8:
        return packed
    rows = len(packed)
    group = 8 // math.gcd(8, bits)
    kind, used = _word(group * bits), group * bits // 8
    groups = -(-count // group)
    spread = np.zeros((rows, groups * used), np.uint8)
    spread[:, : packed.shape[1]] = packed
    words = np.zeros((rows, groups, kind.itemsize), np.uint8)
    words[:, :, :used] = spread.reshape(rows, groups, used)
    joined = words.reshape(rows, -1).view(kind.newbyteorder("<")).astype(kind, copy=False)
    codes = np.empty((rows, groups * group), np.uint8)
    mask = kind.type(2**bits - 1)
    for index in range(group):
        codes[:, index::group] = (joined >> kind.type(index * bits)) & mask
    if codes[:, count:].any():
        raise BundleError(f"part '{name}' has bits set behind its last code, expected 0", field=name)
    return codes[:, :count]


def _word(bits: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type of so many bits."""
    return np.dtype(next(kind for size, kind in ((8, "u1"), (16, "u2"), (32, "u4"), (64, "u8")) if bits <= size))
