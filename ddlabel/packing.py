"""Packed tensors: bytes shuffled by significance and zstd-compressed, in a stream that fills whole 64-byte blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import BundleError
from .frame import MAX_RATIO, RATIO_FREE_BYTES, SKIPPABLE_HEADER, pad_frame, read_frame, write_frame
from .header import ALIGNMENT, DTYPE_BITS
from .manifest_rules import MAX_PACKED_BYTES
from .tensors import RawTensor

__all__ = ["Packed", "frame_size", "pack", "unpack"]

SMALL, LARGE = (8 * 2**20, 19), 3
"""Arrays of up to so many bytes are compressed at level 19, at a few MB a second; larger ones at level 3."""


@dataclass(frozen=True)
class Packed:
    """A tensor that is stored byte-shuffled and zstd-compressed when that is smaller."""

    tensor: Any
    """A torch tensor, numpy array or `RawTensor`."""


def frame_size(length: int, content: int) -> int:
    """Bytes of a padded frame: the least multiple of 64 that a skippable frame can fill and readers accept.

    Args:
        length: bytes of the zstd frame.
        content: bytes in it; readers refuse large contents in very few bytes.
    """
    least = max(length, -(-content // MAX_RATIO) if content > RATIO_FREE_BYTES else 0)
    size = least + -least % ALIGNMENT
    return size if size == length or size >= length + SKIPPABLE_HEADER else size + ALIGNMENT


def pack(raw: RawTensor) -> tuple[RawTensor, dict[str, Any] | None]:
    """Byte-shuffle and compress a tensor.

    Returns:
        What to store and its `packed` record; the tensor itself and None when compression does not make it smaller.
    """
    if raw.nbytes > MAX_PACKED_BYTES:
        return raw, None
    shuffle = max(1, DTYPE_BITS[raw.dtype] // 8)
    level = SMALL[1] if raw.nbytes <= SMALL[0] else LARGE
    stream = write_frame(_shuffled(raw.data, shuffle), level=level)
    size = frame_size(len(stream), raw.nbytes)
    if size >= raw.nbytes:
        return raw, None
    record = {
        "method": "zstd",
        "level": level,
        "shuffle": shuffle,
        "length": len(stream),
        "dtype": raw.dtype,
        "shape": list(raw.shape),
        "bytes": raw.nbytes,
        "sha256": raw.sha256,
    }
    return RawTensor("U8", (size,), pad_frame(stream, size)), record


def unpack(data: bytes | bytearray, record: Mapping[str, Any], label: str) -> bytearray:
    """Undo `pack`, checking size and digest.

    Raises:
        BundleError: a damaged or hostile stream.
    """
    stream = bytes(data)
    plain = read_frame(stream, record["bytes"], label)
    if len(plain) != record["bytes"] or len(plain) % record["shuffle"]:
        raise BundleError(f"{label}: holds {len(plain)} bytes, expected {record['bytes']}", field=label)
    restored = _unshuffled(plain, record["shuffle"])
    if hashlib.sha256(restored).hexdigest() != record["sha256"]:
        raise BundleError(f"{label}: digest mismatch after decompression", field=label)
    return restored


def _shuffled(data: bytes, width: int) -> bytes:
    """All first bytes of the elements, then all second bytes, and so on."""
    return data if width == 1 else b"".join(data[byte::width] for byte in range(width))


def _unshuffled(data: bytes, width: int) -> bytearray:
    restored = bytearray(len(data))
    count = len(data) // width
    for byte in range(width):
        restored[byte::width] = data[byte * count : (byte + 1) * count]
    return restored
