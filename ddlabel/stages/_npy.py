"""`.npy` files of anyone's: the header is read first, within limits, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from ..errors import DataError

__all__ = ["Header", "read_header", "read_numbers"]

HEADER_BYTES = 4096
"""Headers of plain arrays are far shorter; nothing beyond is parsed."""
FAULTS = (
    ValueError, SyntaxError, tokenize.TokenError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    RecursionError, MemoryError,
)  # fmt: skip
"""What numpy's parser raises on bytes that are no header; they are few, so that memory is not what lacks."""


@dataclass(frozen=True)
class Header:
    """What an array is, before its numbers are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    """Columns first."""
    start: int
    """Where the numbers begin, in bytes."""


def read_header(file: BinaryIO, path: Path) -> Header:
    """The header at the start of a file; at most 4096 bytes are read, whatever they say.

    Raises:
        DataError: not an `.npy` file of format 1.0 or 2.0, a negative length, or an array of Python objects.
    """
    stream = io.BytesIO(file.read(HEADER_BYTES))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = npy.read_magic(stream)
            readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            if version not in readers:
                raise _unreadable(path, f"format {version[0]}.{version[1]}, expected 1.0 or 2.0")
            shape, fortran, dtype = readers[version](stream, max_header_size=HEADER_BYTES)
    except FAULTS as error:
        raise _unreadable(path, "its header is damaged") from error
    if dtype.hasobject:
        raise _unreadable(path, "it holds Python objects")
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise _unreadable(path, f"its shape is {str(list(shape))[:80]}")
    return Header(shape, dtype, fortran, stream.tell())


def read_numbers(file: BinaryIO, header: Header, path: Path) -> np.ndarray[Any, Any]:
    """The array; the caller has seen that its size is one to expect.

    Raises:
        DataError: the file is too short.
    """
    size = math.prod(header.shape) * header.dtype.itemsize
    file.seek(header.start)
    content = file.read(size)
    if len(content) != size:
        raise _unreadable(path, f"it was cut, {len(content)} of {size} bytes are left")
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(f"{path}: not a readable .npy array of numbers: {why}", field="scores")
