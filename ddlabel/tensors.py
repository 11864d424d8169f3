"""Tensor bytes on their way into a bundle: from memory, from another bundle, or spooled because memory is short.

Nothing here imports torch or numpy unless it is handed a tensor or asked for one.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import BundleError
from .frame import read_frame, write_frame
from .fsio import scratch
from .header import DTYPE_BITS

if TYPE_CHECKING:
    import torch

__all__ = ["FileTensor", "Packed", "RawTensor", "Spool", "Spooled", "pack", "to_torch", "unpack"]

CHUNK_BYTES = 4 * 2**20
_TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "F64": "float64", "I64": "int64",
    "U64": "uint64", "C64": "complex64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
}  # fmt: skip


@dataclass(frozen=True)
class RawTensor:
    """A tensor as bytes: little-endian, row-major."""

    dtype: str
    """safetensors code, such as F32."""
    shape: tuple[int, ...]
    data: bytes | memoryview
    sha256: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        expected = math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8
        if len(self.data) != expected:
            raise ValueError(f"{self.dtype} of shape {self.shape} has {expected} bytes, got {len(self.data)}")
        if not self.sha256:
            object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())

    @classmethod
    def of(cls, tensor: Any) -> RawTensor:
        """Copy a torch tensor of any device and memory layout."""
        import torch

        codes = {getattr(torch, name): code for code, name in _TORCH_NAMES.items() if hasattr(torch, name)}
        if sys.byteorder != "little":
            raise BundleError("this machine is big-endian, bundles are little-endian")
        if tensor.dtype not in codes:
            raise ValueError(f"tensors of {tensor.dtype} cannot be stored")
        plain = tensor.detach().cpu().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return cls(codes[tensor.dtype], tuple(tensor.shape), data)

    @property
    def nbytes(self) -> int:
        """Length of the data."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The data in pieces."""
        view = memoryview(self.data)
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]


@dataclass(frozen=True)
class Packed:
    """A tensor that is stored byte-shuffled and zstd-compressed when that is smaller."""

    tensor: Any


@dataclass(frozen=True)
class FileTensor:
    """A tensor inside an open bundle; its bytes are read when needed and checked on the way."""

    file: BinaryIO
    offset: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    sha256: str
    label: str
    """File and tensor name, for messages."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces; fails at the end when they are not those that were written."""
        digest = hashlib.sha256()
        for start in range(0, self.nbytes, CHUNK_BYTES):
            part = self.pread(start, min(CHUNK_BYTES, self.nbytes - start))
            digest.update(part)
            yield part
        if digest.hexdigest() != self.sha256:
            raise BundleError(
                f"{self.label}: digest mismatch, the bytes are not those that were written",
                field=self.label,
                hint="fetch another copy, or run the stage again",
            )

    def read(self) -> bytearray:
        """All bytes, checked."""
        data = bytearray()
        for part in self.chunks():
            data += part
        return data

    def pread(self, start: int, count: int) -> bytes:
        """Some bytes, unchecked, wherever the file's position is."""
        parts = []
        while count:
            part = os.pread(self.file.fileno(), count, self.offset + start)
            if not part:
                raise BundleError(f"{self.label}: the file was cut off while it was read", field=self.label)
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return b"".join(parts)


@dataclass(frozen=True)
class Spooled:
    """A tensor that was written to a scratch file, because it does not fit in memory."""

    source: FileTensor

    @property
    def dtype(self) -> str:
        """Safetensors code."""
        return self.source.dtype


class Spool:
    """Scratch space for tensors larger than memory: write each one piece by piece, then hand it to a bundle."""

    def __init__(self) -> None:
        self._file = scratch()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def tensor(self, dtype: str, shape: tuple[int, ...], parts: Iterator[bytes | memoryview]) -> Spooled:
        """Store one tensor from its bytes in order.

        Raises:
            ValueError: more or fewer bytes than shape and dtype need.
        """
        expected = math.prod(shape) * DTYPE_BITS[dtype] // 8
        offset = self._file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        written = 0
        for part in parts:
            digest.update(part)
            self._file.write(part)
            written += len(part)
        self._file.flush()
        if written != expected:
            raise ValueError(f"{dtype} of shape {shape} has {expected} bytes, got {written}")
        return Spooled(FileTensor(self._file, offset, dtype, shape, written, digest.hexdigest(), "spooled tensor"))


def pack(raw: RawTensor) -> tuple[RawTensor, dict[str, Any] | None]:
    """Byte-shuffle and compress a tensor.

    Returns:
        What to store and its `packed` record; the tensor itself and None when compression does not make it smaller.
    """
    shuffle = max(1, DTYPE_BITS[raw.dtype] // 8)
    stream = write_frame(_shuffled(bytes(raw.data), shuffle))
    if len(stream) >= raw.nbytes:
        return raw, None
    record = {
        "method": "zstd",
        "shuffle": shuffle,
        "dtype": raw.dtype,
        "shape": list(raw.shape),
        "bytes": raw.nbytes,
        "sha256": raw.sha256,
    }
    return RawTensor("U8", (len(stream),), stream), record


def unpack(data: bytes | bytearray, record: dict[str, Any], label: str) -> bytearray:
    """Undo `pack`, checking size and digest.

    Raises:
        BundleError: a damaged or hostile stream.
    """
    expected = math.prod(record["shape"]) * DTYPE_BITS.get(record["dtype"], 0) // 8
    if record["method"] != "zstd" or record["bytes"] != expected:
        raise BundleError(f"{label}: packed by '{record['method']}' into {record['bytes']} bytes, cannot be unpacked")
    plain = read_frame(bytes(data), record["bytes"], label)
    if len(plain) != expected:
        raise BundleError(f"{label}: holds {len(plain)} bytes, expected {expected}", field=label)
    restored = _unshuffled(plain, record["shuffle"])
    if hashlib.sha256(restored).hexdigest() != record["sha256"]:
        raise BundleError(f"{label}: digest mismatch after decompression", field=label)
    return restored


def to_torch(dtype: str, shape: tuple[int, ...], data: bytearray, label: str) -> torch.Tensor:
    """A torch tensor that owns the bytes.

    Raises:
        BundleError: a dtype torch does not know; truth values other than 0 and 1.
    """
    import torch

    kind = getattr(torch, _TORCH_NAMES.get(dtype, ""), None)
    if kind is None:
        raise BundleError(f"{label}: dtype {dtype} cannot be loaded here; the section is kept when copied", field=label)
    if dtype == "BOOL" and any(byte > 1 for byte in data):
        raise BundleError(f"{label}: truth values other than 0 and 1", field=label)
    if not data:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(data, dtype=kind).reshape(shape)


def _shuffled(data: bytes, width: int) -> bytes:
    """All first bytes of the elements, then all second bytes, and so on."""
    return data if width == 1 else b"".join(data[byte::width] for byte in range(width))


def _unshuffled(data: bytes, width: int) -> bytearray:
    restored = bytearray(len(data))
    count = len(data) // width
    for byte in range(width):
        restored[byte::width] = data[byte * count : (byte + 1) * count]
    return restored
