"""Files of torch.save without unpickling: a zip of storages and a pickle that is read as plain data.

Knows what published distilled sets hold (tensors, lists, dictionaries, numbers, NumPy scalars under their old and new
names) and refuses everything else.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BundleError
from ._pickles import Named, PickleRefusedError, interpret
from ._sources import Sources, shown

__all__ = ["REFUSED", "is_torch_file", "read_torch"]

REFUSED = (
    "unsafe pickle refused: convert it yourself, where you trust the file, to plain tensors saved by torch.save or "
    "to .npz"
)
MAX_PICKLE_BYTES = 64 * 2**20
MAX_MEMBERS = 100_000
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMBERS = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "i2": "<h", "i1": "<b", "u1": "<B", "b1": "<?"}
"""NumPy's names of types, and how `struct` writes them."""


@dataclass
class _Dtype:
    code: str


@dataclass(frozen=True)
class _Storage:
    values: Tensor
    """(m,) of its type."""


def is_torch_file(sources: Sources, path: Path) -> bool:
    """Whether a file begins like a zip or a pickle, as all that torch ever saved do."""
    begin = sources.begins(path, 4)
    return begin == b"PK\x03\x04" or begin[:2] in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}


def read_torch(sources: Sources, path: Path, *, name: str | None = None) -> Any:
    """What a file of torch.save holds: tensors on the CPU in lists, tuples and dictionaries, numbers, texts.

    Args:
        sources: where the file is entered.
        path: the file.
        name: how the history calls it; None is its own name.

    Raises:
        BundleError: no such file, damaged, or it holds objects that would have to be unpickled.
    """
    data = sources.read(path, name=name)
    label = shown(path)
    if data[:4] != b"PK\x03\x04":
        raise BundleError(f"{label}: not a zip file of torch.save (torch 1.6 and later write those)", hint=REFUSED)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            root, members = _members(archive, len(data), label)
            return _Reader(archive, root, members, label).load()
    except PickleRefusedError as error:
        if str(error).startswith("damaged"):
            raise BundleError(f"{label}: its contents are {error}") from error
        raise BundleError(f"{label}: {error}", hint=REFUSED) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, ValueError) as error:
        raise BundleError(f"{label}: damaged or truncated ({ascii(str(error))[1:80]})") from error


def _members(archive: zipfile.ZipFile, size: int, label: str) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The folder of the archive and its members, all of them as torch writes them: not compressed, each once."""
    infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(infos) > MAX_MEMBERS or len(members) < len(infos):
        raise BundleError(f"{label}: {len(infos)} members, expected at most {MAX_MEMBERS}, each once")
    packed = [info for info in infos if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1]
    if packed:
        raise BundleError(
            f"{label}: member {ascii(packed[0].filename)[:80]} is compressed or encrypted, torch writes plain ones"
        )
    if sum(info.file_size for info in infos) > size:
        raise BundleError(f"{label}: its members say that they hold more than the file")
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BundleError(f"{label}: a zip without one 'data.pkl', expected a file of torch.save", hint=REFUSED)
    if members[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise BundleError(f"{label}: its pickle has more than {MAX_PICKLE_BYTES} bytes")
    return pickles[0].removesuffix("data.pkl"), members


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, root: str, members: dict[str, zipfile.ZipInfo], label: str) -> None:
        self._archive, self._root, self._members, self._label = archive, root, members, label
        self._storages: dict[tuple[str, str], _Storage] = {}

    def load(self) -> Any:
        order = self._root + "byteorder"
        if order in self._members and self._archive.read(order).strip() != b"little":
            raise BundleError(f"{self._label}: numbers in another byte order than little-endian")
        calls: dict[str, Any] = {
            "torch._utils _rebuild_tensor_v2": self._tensor,
            "torch._utils _rebuild_parameter": lambda tensor, *_rest: _is(tensor, Tensor),
            "collections OrderedDict": _no_items,
            "_codecs encode": lambda text, _encoding: text.encode("latin1"),
            "numpy dtype": _dtype,
            **{f"torch {name}": _not_called for name in STORAGES},
            **{f"numpy.{core}.multiarray scalar": _scalar for core in ("core", "_core")},
        }
        return interpret(self._archive.read(self._root + "data.pkl"), calls, self._storage, _build)

    def _storage(self, identity: Any) -> _Storage:
        """A storage by ("storage", type, key, device, count)."""
        word, kind, key, _device, count = _is(identity, tuple)
        dtype = STORAGES[_is(kind, Named).name.removeprefix("torch ")]
        if not (type(word) is str and word == "storage" and type(key) is str and type(count) is int):
            raise PickleRefusedError("damaged: a storage without name, type or size")
        if (key, str(dtype)) not in self._storages:
            member = self._members.get(f"{self._root}data/{key}")
            if member is None or member.file_size != count * dtype.itemsize:
                raise PickleRefusedError(f"damaged: storage {ascii(key)[:40]} is missing or of another size")
            data = bytearray(self._archive.read(member))
            values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self._storages[key, str(dtype)] = _Storage(values)
        return self._storages[key, str(dtype)]

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> Tensor:
        """A view of a storage, of no more values than that holds, so that no copy of it is larger than the file."""
        values = _is(storage, _Storage).values
        shape, steps = _whole(size), _whole(stride)
        if len(shape) != len(steps) or len(shape) > 8 or type(offset) is not int or offset < 0:
            raise PickleRefusedError("damaged: a tensor of impossible shape")
        count = math.prod(shape)
        last = offset + sum((side - 1) * step for side, step in zip(shape, steps, strict=True)) if count else offset - 1
        if count > len(values) or last >= len(values):
            raise PickleRefusedError(f"damaged: a tensor of {count} values, its storage holds {len(values)}")
        return torch.as_strided(values, shape, steps, offset)


def _dtype(code: Any, *_rest: Any) -> _Dtype:
    """A NumPy type of numbers."""
    if _is(code, str) not in NUMBERS:
        raise PickleRefusedError(f"holds NumPy type {ascii(code)[:40]}, which is no number")
    return _Dtype(code)


def _scalar(dtype: Any, data: Any) -> float | int | bool:
    """The number of a NumPy scalar."""
    value: float | int | bool = struct.unpack(NUMBERS[_is(dtype, _Dtype).code], _is(data, bytes))[0]
    return value


def _build(target: Any, state: Any) -> None:
    """The state of a NumPy type, whose byte order must be little, and of dictionaries, which have none."""
    if isinstance(target, _Dtype):
        if _is(_is(state, tuple)[1], str) not in {"<", "|"}:
            raise PickleRefusedError("damaged: numbers in another byte order than little-endian")
    elif not (isinstance(target, dict) and state == {}):
        raise PickleRefusedError(f"gives a {type(target).__name__} a state, which plain data does not need")


def _no_items() -> dict[str, Any]:
    """An empty OrderedDict; its items are set one by one, their keys checked."""
    return {}


def _not_called(*_arguments: Any) -> None:
    raise PickleRefusedError("calls a storage type, which plain data does not need")


def _whole(values: Any) -> Sequence[int]:
    numbers: tuple[int, ...] = _is(values, tuple)
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise PickleRefusedError("damaged: a tensor of impossible shape")
    return numbers


def _is(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise PickleRefusedError(f"damaged: a {type(value).__name__} where a {kind.__name__} belongs")
    return value
