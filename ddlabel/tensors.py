"""Tensor bytes on their way into a bundle: from memory, from another bundle, or spooled because memory is short.

Nothing here imports torch or numpy unless it is asked for a torch tensor.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import BundleError, ResourceError, UsageError
from .fsio import scratch
from .header import DTYPE_BITS

if TYPE_CHECKING:
    import torch

__all__ = ["FileTensor", "OpenFile", "RawTensor", "Spool", "to_torch"]

CHUNK_BYTES = 4 * 2**20
_TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "F64": "float64", "I64": "int64",
    "U64": "uint64", "C64": "complex64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
}  # fmt: skip
_CODES = {name: code for code, name in _TORCH_NAMES.items()}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as bytes: little-endian, row-major."""

    dtype: str
    """safetensors code, such as F32."""
    shape: tuple[int, ...]
    data: bytes
    sha256: str = field(default="", compare=False)
    """Digest of the data; computed."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BITS:
            raise ValueError(f"unknown dtype '{self.dtype}', expected one of {', '.join(DTYPE_BITS)}")
        data = bytes(self.data)
        expected = _nbytes(self.dtype, self.shape)
        if len(data) != expected:
            raise ValueError(f"{self.dtype} of shape {self.shape} has {expected} bytes, got {len(data)}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "sha256", hashlib.sha256(data).hexdigest())

    @classmethod
    def of(cls, array: Any) -> RawTensor:
        """Copy a torch tensor of any device and memory layout, or a numpy array of any order and byte order.

        Raises:
            UsageError: no dense array of a dtype that safetensors has.
        """
        if sys.byteorder != "little":
            raise ResourceError("this machine is big-endian, bundles are little-endian")
        if isinstance(array, cls):
            return array
        for module, kind, convert in (("torch", "Tensor", _torch_bytes), ("numpy", "ndarray", _numpy_bytes)):
            if module in sys.modules and isinstance(array, getattr(sys.modules[module], kind)):
                dtype, data = convert(array)
                return cls(dtype, tuple(array.shape), data)
        raise UsageError(f"cannot store a {type(array).__name__}, expected a torch tensor, numpy array or RawTensor")

    @property
    def nbytes(self) -> int:
        """Length of the data."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The data in pieces."""
        view = memoryview(self.data)
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]

    def read(self) -> bytearray:
        """A copy of the data."""
        return bytearray(self.data)

    def pread(self, start: int, count: int) -> bytes:
        """Some bytes."""
        return self.data[start : start + count]


class OpenFile:
    """A file for reading at random, closed when the last tensor that reads from it is gone.

    It holds a descriptor of its own, so that the file object it was made from can be closed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = os.dup(file.fileno())

    def close(self) -> None:
        """Close the descriptor; reading fails from now on."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close

    def pread(self, start: int, count: int, label: str) -> bytes:
        """Bytes wherever the file's position is; fewer at its end.

        Raises:
            ResourceError: the disk failed.
            BundleError: the file was closed.
        """
        if self._descriptor < 0:
            raise BundleError(f"{label}: its file is closed", field=label)
        try:
            return os.pread(self._descriptor, count, start)
        except OSError as error:
            raise ResourceError(f"{label}: cannot be read ({error.strerror})", field=label) from error


@dataclass(frozen=True)
class FileTensor:
    """A tensor inside an open file; its bytes are read when needed and checked on the way."""

    file: OpenFile
    offset: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    sha256: str | None
    """None for foreign tensors, which have no digest to check."""
    label: str
    """File and tensor name, for messages."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces; fails at the end when they are not those that were written."""
        digest = hashlib.sha256()
        for start in range(0, self.nbytes, CHUNK_BYTES):
            part = self.pread(start, min(CHUNK_BYTES, self.nbytes - start))
            digest.update(part)
            yield part
        if self.sha256 not in {None, digest.hexdigest()}:
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
        """Some bytes, unchecked.

        Raises:
            BundleError: the file was cut off after it was opened.
        """
        parts = []
        while count:
            part = self.file.pread(self.offset + start, count, self.label)
            if not part:
                raise BundleError(f"{self.label}: the file was cut off while it was read", field=self.label)
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return b"".join(parts)


class Spool:
    """Scratch space for tensors larger than memory; use it with `with`, and save the bundle inside, or `release` it.

    >>> with Spool() as spool:
    ...     trajectory = spool.tensor("F32", (2, 1), [bytes(4), bytes(4)])
    """

    def __init__(self) -> None:
        self._file = scratch()
        self._reader = OpenFile(self._file)
        self._released = False

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._released:
            self._reader.close()
        self._file.close()

    def release(self) -> None:
        """Take no further tensors, and leave those made to their holders: the space is freed with the last of them."""
        self._released = True
        self._file.close()

    def tensor(self, dtype: str, shape: tuple[int, ...], parts: Iterable[bytes | memoryview]) -> FileTensor:
        """Store one tensor from its bytes in order, and return it for a `NewSection`.

        Raises:
            ValueError: more or fewer bytes than shape and dtype need.
            ResourceError: the disk is full.
        """
        offset = self._file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        written = 0
        try:
            for part in parts:
                digest.update(part)
                self._file.write(part)
                written += len(part)
            self._file.flush()
        except OSError as error:
            raise ResourceError(f"temporary file: cannot be written ({error.strerror})") from error
        if written != _nbytes(dtype, shape):
            raise ValueError(f"{dtype} of shape {shape} has {_nbytes(dtype, shape)} bytes, got {written}")
        return FileTensor(self._reader, offset, dtype, shape, written, digest.hexdigest(), "spooled tensor")


def to_torch(dtype: str, shape: tuple[int, ...], data: bytearray, label: str) -> torch.Tensor:
    """A torch tensor that owns the bytes.

    Raises:
        BundleError: a dtype torch does not know; truth values other than 0 and 1.
    """
    import torch

    kind = getattr(torch, _TORCH_NAMES.get(dtype, ""), None)
    if kind is None:
        raise BundleError(f"{label}: unsupported dtype {dtype}; the section is kept when copied", field=label)
    if dtype == "BOOL" and data.translate(None, b"\0\1"):
        raise BundleError(f"{label}: truth values other than 0 and 1", field=label)
    if not data:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(data, dtype=kind).reshape(shape)


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def _torch_bytes(tensor: torch.Tensor) -> tuple[str, bytes]:
    import torch

    code = _CODES.get(str(tensor.dtype).removeprefix("torch."))
    if code is None or tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise UsageError(
            f"cannot store a {tensor.layout} tensor of {tensor.dtype} on '{tensor.device}', expected a dense tensor "
            "with data and a dtype of safetensors"
        )
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return code, plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _numpy_bytes(array: Any) -> tuple[str, bytes]:
    code = _CODES.get(array.dtype.name)
    if code is None:
        raise UsageError(f"cannot store a numpy array of {array.dtype}, expected a dtype of safetensors")
    return code, array.astype(array.dtype.newbyteorder("<")).tobytes()
