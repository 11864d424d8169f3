"""The safetensors header: a strict reader and a writer that aligns every tensor to 64 bytes. Standard library only.

Layout: u64 little-endian n, then n bytes of JSON padded with spaces, then tensor bytes without hole or overlap.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from . import __version__
from .errors import BundleError

__all__ = [
    "ALIGNMENT",
    "DTYPE_BITS",
    "MANIFEST",
    "Header",
    "TensorEntry",
    "build_header",
    "check_size",
    "is_impossible",
    "misaligned",
    "parse_header",
    "strict_json",
]

MANIFEST = "manifest.json.zst"
FORMAT_KEY = "ddset"
FORMAT_MAJOR = 1
ALIGNMENT = 64
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 255
MAX_RANK = 8
MAX_JSON_DEPTH = 32
MAX_BITS = 2**51
"""Bits of the largest tensor, 256 TiB: all that today's machines can address."""
MAX_DIGITS = 20
"""Digits of the largest integer a header or manifest may hold: 2^63 has 19."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}  # fmt: skip
"""Bits per element of every dtype of safetensors 0.8."""

_NAME = re.compile(r"[a-z0-9._-]+\Z")
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|([\[{])|([\]}])', re.DOTALL)
"""Strings, finished or not, opening and closing brackets. Nothing is tried twice: time is linear in the text."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the end of the header."""
    end: int

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """A parsed header."""

    entries: dict[str, TensorEntry]
    """By name, in the order of their offsets."""
    metadata: dict[str, str]
    data_start: int
    """Bytes before the first tensor."""
    data_bytes: int


def parse_header(read_exactly: Callable[[int], bytes], size: int | None, source: str) -> Header:
    """Read and check a header.

    Args:
        read_exactly: gives the next n bytes, or fewer at the end of the file.
        size: bytes of the whole file, or None for a pipe (then call `check_size` when the end is known).
        source: name of the file, for messages.

    Raises:
        BundleError: anything that is not a well-formed `.ddset` header.
    """
    lead = read_exactly(8)
    if len(lead) < 8:
        _fail(source, f"{len(lead)} bytes long, expected a .ddset file of at least 8")
    length = int.from_bytes(lead, "little")
    if length < 2:
        _fail(source, f"header length is {length}, expected at least 2")
    if length > MAX_HEADER_BYTES:
        _fail(source, f"header length is {length}, expected at most {MAX_HEADER_BYTES}; this is no .ddset file")
    if size is not None and 8 + length > size:
        _fail(source, f"header says it is {length} bytes long, the file ends after {size - 8}")
    text = _read_in_pieces(read_exactly, length)
    if len(text) < length:
        _fail(source, f"header says it is {length} bytes long, the file ends after {len(text)}")
    stripped = text.rstrip(b" ")
    if stripped[-1:].isspace():
        _fail(source, "header is padded with other white space than spaces")
    parsed = strict_json(stripped, source, "header")
    if not isinstance(parsed, dict):
        _fail(source, "header is no JSON object")
    metadata = _metadata(parsed.pop("__metadata__", None), source)
    if len(parsed) > MAX_TENSORS:
        _fail(source, f"{len(parsed)} tensors, expected at most {MAX_TENSORS}")
    entries = sorted((_entry(name, record, source) for name, record in parsed.items()), key=_by_offset)
    _check_coverage(entries, source)
    header = Header(
        entries={entry.name: entry for entry in entries},
        metadata=metadata,
        data_start=8 + length,
        data_bytes=entries[-1].end if entries else 0,
    )
    if size is not None:
        check_size(header, size, source)
    return header


def check_size(header: Header, size: int, source: str) -> None:
    """The file must end with the last tensor: not earlier (cut off), not later (trailing bytes)."""
    expected = header.data_start + header.data_bytes
    if size < expected:
        _fail(source, f"file is {size} bytes long, its header promises {expected}; it was cut off", "copy it again")
    if size > expected:
        _fail(source, f"{size - expected} bytes follow the last tensor, expected none")


def is_impossible(dtype: str, shape: Sequence[int]) -> bool:
    """Whether no address space holds such a tensor; sides beside a zero count too, because strides are made of them."""
    return math.prod(max(1, side) for side in shape) * DTYPE_BITS[dtype] >= MAX_BITS


def misaligned(entry: TensorEntry) -> bool:
    """Whether the tensor starts at an address that its element size does not divide."""
    return entry.start % max(1, DTYPE_BITS[entry.dtype] // 8) != 0


def build_header(tensors: Sequence[tuple[str, str, tuple[int, ...], int]]) -> tuple[bytes, list[TensorEntry]]:
    """Lay tensors out in the given order, each 64-aligned; `pad.N` tensors of zeros fill the gaps.

    Args:
        tensors: name, dtype, shape and bytes of each.

    Returns:
        The length prefix and JSON, padded with spaces so that data starts at a multiple of 64, and the entries.
    """
    entries: list[TensorEntry] = []
    position = 0
    pads = 0
    for index, (name, dtype, shape, nbytes) in enumerate(tensors):
        entries.append(TensorEntry(name, dtype, tuple(shape), position, position + nbytes))
        position += nbytes
        gap = -position % ALIGNMENT
        if gap and index + 1 < len(tensors):
            entries.append(TensorEntry(f"pad.{pads}", "U8", (gap,), position, position + gap))
            position, pads = position + gap, pads + 1
    document: dict[str, Any] = {"__metadata__": {FORMAT_KEY: str(FORMAT_MAJOR)}}
    for entry in entries:
        document[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.end],
        }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, entries


def strict_json(data: bytes, source: str, what: str) -> Any:
    """Parse JSON that two readers cannot understand differently.

    Raises:
        BundleError: not UTF-8, not JSON, duplicate keys, NaN or infinity, lone surrogates, integers beyond 20 digits,
            nesting beyond 32.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{source}: {what} is not UTF-8 (byte {error.start})", field=what) from None
    if not text.startswith("{"):
        _fail(source, f"{what} does not start with '{{'")
    if _too_deep(text):
        _fail(source, f"{what} is nested deeper than {MAX_JSON_DEPTH}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _value in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            _fail(source, f"{what} has the key {ascii(twice)[:80]} twice")
        return document

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            _fail(source, f"{what} holds the number {number[:20]}, expected finite numbers")
        return value

    def short(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            _fail(source, f"{what} holds a number of {len(digits)} digits, expected at most {MAX_DIGITS}")
        return int(digits)

    def constant(word: str) -> NoReturn:
        _fail(source, f"{what} holds {word}, expected finite numbers")

    try:
        document = json.loads(
            text, object_pairs_hook=unique, parse_float=finite, parse_int=short, parse_constant=constant
        )
        if "\\u" in text:  # only an escape spells half a character: the text itself was UTF-8
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        _fail(source, f"{what} holds half a character (a lone surrogate)")
    except ValueError as error:
        raise BundleError(f"{source}: {what} is no JSON ({error})", field=what) from None
    return document


def _read_in_pieces(read_exactly: Callable[[int], bytes], length: int) -> bytes:
    """Read at most 1 MiB at a time, so that a lying length allocates nothing."""
    parts = []
    while length:
        part = read_exactly(min(length, 2**20))
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _too_deep(text: str) -> bool:
    """Whether brackets outside strings are nested deeper than `MAX_JSON_DEPTH`."""
    depth = 0
    for part in _BRACKETS.finditer(text):
        depth += (part.lastindex == 1) - (part.lastindex == 2)
        if depth > MAX_JSON_DEPTH:
            return True
    return False


def _metadata(record: Any, source: str) -> dict[str, str]:
    if not isinstance(record, dict) or not all(isinstance(value, str) for value in record.values()):
        _fail(source, "no '__metadata__' of texts; a safetensors file perhaps, but not a ddset")
    if FORMAT_KEY not in record:
        _fail(source, f"a safetensors file but not a ddset: '__metadata__' has no '{FORMAT_KEY}'")
    version = record[FORMAT_KEY]
    if not (version.isdecimal() and version.isascii() and len(version) < 10):
        _fail(source, f"'__metadata__.{FORMAT_KEY}' is {ascii(version)[:40]}, expected a whole number")
    if int(version) != FORMAT_MAJOR:
        _fail(
            source,
            f"format version {version}, this ddlabel reads version {FORMAT_MAJOR}",
            f"needs a ddlabel newer than {__version__}, or write the bundle again with this one",
        )
    return dict(record)


def _entry(name: str, record: Any, source: str) -> TensorEntry:
    shown = ascii(name)[1:-1][:80]
    if not _NAME.match(name) or len(name) > MAX_NAME_BYTES:
        _fail(source, f"tensor name '{shown}', expected 1 to {MAX_NAME_BYTES} of a-z, 0-9, '.', '_', '-'")
    if not isinstance(record, dict) or set(record) != {"dtype", "shape", "data_offsets"}:
        _fail(source, f"tensor '{shown}' needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _fail(source, f"tensor '{shown}' has the unknown dtype {ascii(dtype)[:40]}")
    if not _whole_numbers(shape) or len(shape) > MAX_RANK:
        _fail(source, f"tensor '{shown}' has no valid shape, expected at most {MAX_RANK} whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        _fail(source, f"tensor '{shown}' has no valid data_offsets, expected [start, end]")
    if is_impossible(dtype, shape):
        _fail(source, f"tensor '{shown}' has an impossible shape {tuple(shape)}")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        _fail(source, f"tensor '{shown}' has {offsets[1] - offsets[0]} bytes, its shape and dtype need {bits / 8:g}")
    return TensorEntry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _by_offset(entry: TensorEntry) -> tuple[int, int]:
    return entry.start, entry.end


def _check_coverage(entries: Sequence[TensorEntry], source: str) -> None:
    position = 0
    for entry in entries:
        if entry.start != position:
            problem = "overlaps the one before" if entry.start < position else "leaves a hole before it"
            _fail(source, f"tensor '{entry.name}' starts at {entry.start}, expected {position}: it {problem}")
        if misaligned(entry) and entry.name.startswith(("images.", "labels.")):
            _fail(source, f"tensor '{entry.name}' starts at {entry.start}, not a multiple of its element size")
        position = entry.end


def _fail(source: str, problem: str, hint: str | None = None) -> NoReturn:
    raise BundleError(f"{source}: {problem}", field="header", hint=hint)
