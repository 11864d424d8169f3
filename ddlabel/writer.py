"""Writing a bundle: sizes first, then every tensor in pieces, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import storage
from .digests import canonical_json
from .errors import BundleError
from .frame import pad_frame, write_frame
from .header import ALIGNMENT, MANIFEST, MAX_HEADER_BYTES, MAX_TENSORS, TensorEntry, build_header
from .manifest_rules import MAX_MANIFEST_BYTES, is_padding_name
from .packing import frame_size
from .sections import Source, place

__all__ = ["Layout", "lay_out"]

Write = Callable[[bytes | memoryview], object]


@dataclass(frozen=True)
class Layout:
    """A bundle ready to be written."""

    head: bytes
    """Header and padded manifest frame."""
    entries: tuple[TensorEntry, ...]
    """All tensors in file order, the manifest first."""
    document: Mapping[str, Any]
    """The manifest, with a storage report that is exact."""

    def write(self, sources: Mapping[str, Source], write: Write) -> None:
        """Write everything in order.

        Raises:
            BundleError: a tensor copied from another file is damaged.
        """
        write(self.head)
        for entry in self.entries[1:]:
            if is_padding_name(entry.name):
                write(bytes(entry.nbytes))
                continue
            for part in sources[entry.name].chunks():
                write(part)


def lay_out(document: Mapping[str, Any], sources: Mapping[str, Source], name: str) -> Layout:
    """Decide where everything goes.

    The storage report is part of the manifest and counts it: the size of the manifest's frame is promised first, and
    a skippable frame fills what the compressed manifest leaves.

    Args:
        document: the manifest; its storage report is computed anew, unknown keys of the old one are kept.
        sources: every tensor of its sections, and foreign ones.
        name: of the bundle, for messages.

    Raises:
        BundleError: more than a reader would accept.
    """
    document = {**document, "sections": sorted(document["sections"], key=lambda record: place(record["name"]))}
    tensors = [
        (tensor, sources[tensor].dtype, sources[tensor].shape, sources[tensor].nbytes)
        for tensor in _in_file_order(document, sources)
    ]
    size = _frame_size(canonical_json({**document, "storage": {}}))
    while True:
        header, entries = build_header([(MANIFEST, "U8", (size,), size), *tensors])
        complete = {**document, "storage": _report(document, len(header), entries, sources)}
        text = canonical_json(complete)
        if _frame_size(text) <= size:
            _check_limits(header, entries, len(text), name)
            return Layout(header + pad_frame(write_frame(text), size), tuple(entries), complete)
        size += ALIGNMENT


def _frame_size(text: bytes) -> int:
    return frame_size(len(write_frame(text)), len(text))


def _in_file_order(document: Mapping[str, Any], sources: Mapping[str, Source]) -> list[str]:
    """Tensors of the sections, and foreign ones where unknown sections stand."""
    foreign = place("")
    ranks = {tensor: place(record["name"]) for record in document["sections"] for tensor in record["tensors"]}
    ranks |= dict.fromkeys(sorted(sources.keys() - ranks.keys()), foreign)
    return sorted(ranks, key=lambda tensor: ranks[tensor])


def _report(
    document: Mapping[str, Any], header: int, entries: list[TensorEntry], sources: Mapping[str, Source]
) -> dict[str, Any]:
    listed = {tensor for record in document["sections"] for tensor in record["tensors"]}
    report = storage.report(
        document["sections"],
        len(document["data"]["classes"]) if document["data"] else None,
        header=header,
        manifest=entries[0].nbytes,
        padding=sum(entry.nbytes for entry in entries if is_padding_name(entry.name)),
        unlisted=sum(source.nbytes for tensor, source in sources.items() if tensor not in listed),
    )
    return {**document.get("storage", {}), **report}


def _check_limits(header: bytes, entries: list[TensorEntry], manifest_bytes: int, name: str) -> None:
    limits = {
        "tensors": (len(entries), MAX_TENSORS),
        "header bytes": (len(header), MAX_HEADER_BYTES),
        "manifest bytes": (manifest_bytes, MAX_MANIFEST_BYTES),
    }
    for what, (count, limit) in limits.items():
        if count > limit:
            raise BundleError(f"{name}: {count} {what}, a bundle may have {limit}", hint="split it over several files")
