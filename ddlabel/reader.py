"""Reading the start of a bundle: header and manifest, checked against each other; no tensor is touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from .errors import BundleError
from .filesystem import os_errors
from .frame import read_frame
from .fsio import at_random, open_input, scratch
from .header import ALIGNMENT, MANIFEST, Header, TensorEntry, parse_header
from .manifest import Manifest
from .manifest_rules import MAX_MANIFEST_BYTES, SECTION_ORDER, is_padding_name

__all__ = ["open_source", "read_manifest", "unlisted"]

_PIECE_BYTES = 2**20


def open_source(source: str | os.PathLike[str] | BinaryIO) -> tuple[BinaryIO, str]:
    """A file that can be read at random, and its name for messages; streams are spooled to an unnamed file.

    Of a stream no more is read than its header promises, and nothing of its tensors before its manifest is sound, so
    that an endless one that is no bundle fills no disk.

    Raises:
        BundleError: no such file, or a stream that is not a bundle or longer than it says.
        ResourceError: it may not be read.
    """
    if not isinstance(source, str | os.PathLike):
        return _spooled(source, "<stream>"), "<stream>"
    path = os.fspath(source)
    name = "<stdin>" if path == "-" else path
    stream = open_input(path)
    if at_random(stream):
        return stream, name
    with contextlib.closing(stream):
        return _spooled(stream, name), name


def read_manifest(stream: BinaryIO, size: int | None = None, name: str = "<stdin>") -> tuple[Header, Manifest]:
    """Read header and manifest from the start of a file or pipe, and nothing more when the manifest comes first.

    Args:
        stream: positioned at its first byte.
        size: bytes of the file; None for a pipe, whose end is then not checked (`header.check_size` does).
        name: name of the file, for messages.

    Raises:
        BundleError: anything malformed.
    """

    def read(count: int) -> bytes:
        return b"".join(_pieces(stream.read, count))

    header = parse_header(read, size, name)
    entry = header.entries.get(MANIFEST)
    if entry is None:
        raise BundleError(f"{name}: no tensor '{MANIFEST}', expected the manifest", field=MANIFEST)
    if entry.dtype != "U8" or len(entry.shape) != 1 or not 0 < entry.nbytes <= MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{name}: '{MANIFEST}' is {entry.dtype} of shape {entry.shape}, expected 1 to {MAX_MANIFEST_BYTES} bytes",
            field=MANIFEST,
        )
    for _piece in _pieces(stream.read, entry.start):
        pass
    manifest = Manifest.parse(read_frame(read(entry.nbytes), MAX_MANIFEST_BYTES, f"{name}: manifest"), name)
    _check_tensors(header, manifest, name)
    _check_padding(header, name)
    _check_storage(header, manifest, name)
    return header, manifest


def unlisted(header: Header, manifest: Manifest) -> list[TensorEntry]:
    """Foreign tensors: in the file, but in no section of the manifest."""
    listed = {tensor for section in manifest.sections for tensor in section.tensors}
    return [
        entry
        for name, entry in header.entries.items()
        if name != MANIFEST and name not in listed and not is_padding_name(name)
    ]


class _Copying:
    """A stream that leaves a copy of what is read from it."""

    def __init__(self, stream: BinaryIO, copy: BinaryIO) -> None:
        self._stream, self._copy = stream, copy

    def read(self, size: int, /) -> bytes:
        """As of any stream."""
        data = self._stream.read(size)
        with os_errors("temporary file"):
            self._copy.write(data)
        return data


def _spooled(stream: BinaryIO, name: str) -> BinaryIO:
    spool = scratch()
    try:
        copying = _Copying(stream, spool)
        header, _manifest = read_manifest(cast("BinaryIO", copying), None, name)
        left = header.data_bytes - header.entries[MANIFEST].end
        left -= sum(len(piece) for piece in _pieces(copying.read, left))
        if not left and copying.read(1):
            raise BundleError(f"{name}: bytes follow the last tensor, expected none", field="header")
        with os_errors("temporary file"):
            spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return spool


def _pieces(read: Callable[[int], bytes], count: int) -> Iterator[bytes]:
    """The next bytes, or fewer at the end; pipes may give them one by one."""
    while count > 0 and (piece := read(min(count, _PIECE_BYTES))):
        yield piece
        count -= len(piece)


def _check_tensors(header: Header, manifest: Manifest, name: str) -> None:
    """Every tensor of the section table is in the header as described; others must not look like ours."""
    for section in manifest.sections:
        for tensor, record in section.tensors.items():
            _check_tensor(header.entries.get(tensor), tensor, record, name)
    for entry in unlisted(header, manifest):
        if entry.name.split(".", 1)[0] in {*SECTION_ORDER, "pad"}:
            raise BundleError(f"{name}: tensor '{entry.name}' belongs to no section of the manifest", field=entry.name)


def _check_tensor(entry: TensorEntry | None, tensor: str, record: Mapping[str, Any], name: str) -> None:
    if entry is None:
        raise BundleError(f"{name}: the manifest lists tensor '{tensor}', the file does not hold it", field=tensor)
    stored = {"dtype": entry.dtype, "shape": list(entry.shape), "bytes": entry.nbytes}
    for key, value in stored.items():
        if record[key] != value:
            raise BundleError(
                f"{name}: tensor '{tensor}' has {key} {value}, its manifest says {record[key]}", field=tensor
            )


def _padding(header: Header) -> list[TensorEntry]:
    return [entry for name, entry in header.entries.items() if is_padding_name(name)]


def _check_padding(header: Header, name: str) -> None:
    """Padding is short and counted from 0, so that nothing hides in it or in its names."""
    for number, entry in enumerate(_padding(header)):
        if entry.name != f"pad.{number}" or entry.dtype != "U8" or entry.shape != (entry.nbytes,):
            raise BundleError(f"{name}: padding '{entry.name}', expected U8 'pad.{number}'", field=entry.name)
        if entry.nbytes >= ALIGNMENT:
            raise BundleError(f"{name}: padding '{entry.name}' of {entry.nbytes} bytes is too long", field=entry.name)


def _check_storage(header: Header, manifest: Manifest, name: str) -> None:
    """The report's container is the container of this file."""
    actual = {
        "header": header.data_start,
        "manifest": header.entries[MANIFEST].nbytes,
        "padding": sum(entry.nbytes for entry in _padding(header)),
        "unlisted": sum(entry.nbytes for entry in unlisted(header, manifest)),
    }
    reported = manifest.storage["container"]
    for part, size in actual.items():
        if reported[part] != size:
            raise BundleError(
                f"{name}: 'storage.container.{part}' says {reported[part]} bytes, the file has {size}", field="storage"
            )
