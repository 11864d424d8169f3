"""The arrays of a `.npz` file: plain numbers and texts, whose headers are matched and never evaluated."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError
from ._sources import Sources

__all__ = ["Array", "numbers", "read_arrays", "text"]

Array = np.ndarray[Any, Any]

MAX_MEMBER_BYTES = 32 * 2**30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 2**20
"""Members up to this size may be compressed by any ratio."""
MAX_HEADER_BYTES = 4096
MAX_AXES = 8
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
SUFFIX = ".npy"
HEADER = re.compile(
    r"\{'descr': '(?P<type>[<>|=][biufcUSO][0-9]{0,10})', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[0-9, ]{0,200})\),? *\} *\n?"
)
"""What NumPy writes of numbers and texts."""


def read_arrays(
    sources: Sources, path: Path, name: str, *, wanted: Callable[[str], bool]
) -> tuple[dict[str, Array], list[str]]:
    """Arrays whose name is wanted, and the names of all.

    Raises:
        BundleError: no such file, damaged or encrypted, a bomb, or arrays of more than numbers and texts.
    """
    data = sources.read(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            for info in infos:
                _check_member(info, name)
            keys = {info.filename.removesuffix(SUFFIX): info for info in infos}
            if len(keys) < len(infos):
                raise BundleError(f"{name}: two members of one name")
            return {key: _array(archive.read(info), key, name) for key, info in keys.items() if wanted(key)}, list(keys)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise BundleError(f"{name}: not a readable .npz file ({ascii(str(error))[1:80]})") from error


def numbers(array: Array, name: str) -> Tensor:
    """An array of numbers as a tensor that owns its memory; whole numbers without sign become int64.

    Raises:
        BundleError: another type.
    """
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise BundleError(f"{name}: an array of {array.dtype}, expected plain numbers")
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        native = native.astype(np.int64)
    return torch.from_numpy(native if native.flags.writeable else native.copy()).reshape(array.shape)


def text(arrays: Mapping[str, Array], key: str, name: str) -> str:
    """An array of one text.

    Raises:
        BundleError: it is none.
    """
    array = arrays[key]
    if array.dtype.kind != "U" or array.shape != ():
        raise BundleError(f"{name}: '{key}' is {array.dtype.kind}{array.shape}, expected one text")
    try:
        return str(array[()])
    except ValueError as error:
        raise BundleError(f"{name}: '{key}' is no readable text") from error


def _check_member(info: zipfile.ZipInfo, name: str) -> None:
    member = ascii(info.filename)[:80]
    if info.flag_bits & 1 or info.compress_type not in PACKINGS:
        raise BundleError(f"{name}: member {member} is encrypted or packed in an unusual way, expected NumPy's")
    if info.file_size > min(MAX_MEMBER_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * info.compress_size)):
        raise BundleError(f"{name}: member {member} says it holds {info.file_size} bytes")


def _array(data: bytes, key: str, name: str) -> Array:
    """The array of one member, exactly as large as its header says."""
    label = f"{name}: array {ascii(key)[:80]}"
    kind, is_fortran, shape, start = _header(data, label)
    if kind[1] == "O":
        raise BundleError(f"{label} holds Python objects", hint="unsafe pickle refused: save plain numbers")
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{label} is of the unknown type '{kind}'") from error
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise BundleError(f"{label} of {dtype} and shape {str(shape)[:80]} does not fit its {len(data) - start} bytes")
    if not math.prod(shape) or not dtype.itemsize:
        return np.zeros(shape, dtype)
    flat: Array = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _header(data: bytes, label: str) -> tuple[str, bool, tuple[int, ...], int]:
    """Type, whether the first axis runs fastest, shape, and where the values begin."""
    size = {1: 2, 2: 4, 3: 4}.get(data[6]) if data[:6] == b"\x93NUMPY" and len(data) >= 12 else None
    if size is None:
        raise BundleError(f"{label} is no array of NumPy")
    start = 8 + size
    end = start + int.from_bytes(data[8:start], "little")
    if end > min(len(data), start + MAX_HEADER_BYTES):
        raise BundleError(f"{label} has a header of {end - start} bytes, expected at most {MAX_HEADER_BYTES}")
    said = HEADER.fullmatch(data[start:end].decode("latin1"))
    sides = [side.strip() for side in said["shape"].split(",") if side.strip()] if said else []
    if said is None or len(sides) > MAX_AXES or not all(side.isdecimal() and len(side) < 19 for side in sides):
        raise BundleError(
            f"{label} has an unusual header, expected that of plain numbers",
            hint="unsafe pickle refused: save plain numbers with numpy.savez",
        )
    return said["type"], said["fortran"] == "True", tuple(map(int, sides)), end
