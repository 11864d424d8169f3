"""The guarded zstd reader: the only way compressed bytes enter ddlabel.

A frame must say its size, carry a checksum, use a small window and no dictionary, and decompress to exactly the size
it promised; output is never produced beyond that size. It may be followed by one skippable frame of zeros.
"""

from __future__ import annotations

import zstandard

from .errors import BundleError

__all__ = ["pad_frame", "read_frame", "write_frame"]

LEVEL = 3
MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = b"\x50\x2a\x4d\x18"
SKIPPABLE_HEADER = 8
"""Bytes of the smallest skippable frame: magic and length."""
MAX_WINDOW = 8 * 2**20
MAX_RATIO = 1000
RATIO_FREE_BYTES = 2**20
"""Contents up to this size may be compressed by any ratio."""
_PIECE = 64 * 2**10


def write_frame(data: bytes, *, level: int = LEVEL) -> bytes:
    """Compress in one shot: fixed level, one thread, with checksum and content size, so that bytes repeat."""
    compressor = zstandard.ZstdCompressor(level=level, threads=0, write_checksum=True, write_content_size=True)
    return compressor.compress(data)


def pad_frame(frame: bytes, size: int) -> bytes:
    """Lengthen a frame to `size` bytes with a skippable frame.

    Raises:
        ValueError: 1 to 7 bytes are missing, which no skippable frame fills, or the frame is too long.
    """
    gap = size - len(frame)
    if gap == 0:
        return frame
    if gap < SKIPPABLE_HEADER:
        raise ValueError(f"cannot pad a frame of {len(frame)} bytes to {size}")
    body = gap - SKIPPABLE_HEADER
    return frame + SKIPPABLE_MAGIC + body.to_bytes(4, "little") + bytes(body)


def read_frame(data: bytes, cap: int, what: str = "zstd frame") -> bytes:
    """Decompress a frame that may be hostile.

    Args:
        data: one frame, and at most one skippable frame of zeros behind it.
        cap: largest content accepted, in bytes.
        what: name of the frame in messages.

    Raises:
        BundleError: anything else.
    """
    if data[:4] != MAGIC:
        raise _bad(what, "does not start with a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError:
        raise _bad(what, "has a broken zstd header") from None
    size = parameters.content_size
    if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        raise _bad(what, "does not say its size")
    if size > cap:
        raise _bad(what, f"says it holds {size} bytes, expected at most {cap}")
    if size > RATIO_FREE_BYTES and size > MAX_RATIO * len(data):
        raise _bad(what, f"says it holds {size} bytes in {len(data)}, more than {MAX_RATIO}:1")
    if parameters.dict_id != 0 or not parameters.has_checksum:
        raise _bad(what, "needs a dictionary" if parameters.dict_id else "has no checksum")
    if parameters.window_size > MAX_WINDOW:
        raise _bad(what, f"needs a window of {parameters.window_size} bytes, expected at most {MAX_WINDOW}")
    content, rest = _decompress(data, size, what)
    if rest and not _is_one_skippable_frame(rest):
        raise _bad(what, f"is followed by {len(rest)} bytes that do not belong to it")
    if any(rest[SKIPPABLE_HEADER:]):
        raise _bad(what, "is padded with something else than zeros")
    return content


def _decompress(data: bytes, size: int, what: str) -> tuple[bytes, bytes]:
    machine = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    parts: list[bytes] = []
    produced = position = 0
    try:
        while position < len(data) and not machine.eof:
            part = machine.decompress(data[position : position + _PIECE])
            position += _PIECE
            produced += len(part)
            if produced > size:
                raise _bad(what, f"holds more than the {size} bytes it promised")
            parts.append(part)
    except zstandard.ZstdError as error:
        raise _bad(what, f"is damaged ({error})") from None
    if not machine.eof:
        raise _bad(what, "is cut off")
    if produced != size:
        raise _bad(what, f"holds {produced} bytes, promised {size}")
    return b"".join(parts), machine.unused_data + data[position:]


def _is_one_skippable_frame(rest: bytes) -> bool:
    if len(rest) < SKIPPABLE_HEADER or rest[:4] != SKIPPABLE_MAGIC:
        return False
    return len(rest) == SKIPPABLE_HEADER + int.from_bytes(rest[4:8], "little")


def _bad(what: str, problem: str) -> BundleError:
    return BundleError(f"{what} {problem}", field=what)
