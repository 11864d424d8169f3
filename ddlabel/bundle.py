"""The bundle: one `.ddset` file, opened lazily, never changed; a stage makes a new one.

`docs/format.md` is the normative description. Opening reads header and manifest only. Tensors are read when asked for,
and checked against their digest on the bytes used.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from . import storage
from .errors import BundleError
from .frame import SKIPPABLE_HEADER, pad_frame, read_frame, write_frame
from .fsio import atomic_output, open_input
from .header import ALIGNMENT, MANIFEST, Header, TensorEntry, build_header, check_size, parse_header
from .manifest import (
    FORMAT,
    MAX_HISTORY,
    MAX_MANIFEST_BYTES,
    UNDERSTOOD,
    Manifest,
    Section,
    content_digest,
    images_digest,
    required_features,
    section_features,
)
from .tensors import FileTensor, Packed, RawTensor, Spool, Spooled, pack, to_torch, unpack

if TYPE_CHECKING:
    import torch

__all__ = ["Bundle", "NewSection", "Packed", "RawTensor", "Spool", "StageRecord"]

Source = RawTensor | FileTensor
_ORDER = ("images", "labels.hard", "labels", "transform", "student", "scores", "", "teacher", "trajectory", "state")
"""Where sections stand in the file: small and needed first, so that a partial download is of use."""


@dataclass(frozen=True)
class NewSection:
    """A section on its way into a bundle."""

    name: str
    kind: str
    tensors: Mapping[str, Any]
    """Torch tensors, `RawTensor`, `Packed` or `Spooled`, by full name (`labels.dense.codes`)."""
    role: str | None = None
    codec: Mapping[str, Any] | None = None
    domain: str | None = None
    views: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    range: str | None = None
    of: str | None = None
    teacher: Sequence[str] | None = None
    fidelity: Mapping[str, Any] | None = None
    refined: Mapping[str, Any] | None = None
    zip_bytes: int | None = None


@dataclass(frozen=True)
class StageRecord:
    """What a stage did: becomes one entry of the history."""

    stage: str
    config: Mapping[str, Any]
    seed: int | None
    inputs: Sequence[Bundle]
    metrics: Mapping[str, Any]
    seconds: float
    started: float
    """Seconds since 1970, UTC."""
    host: Mapping[str, Any]

    def entry(self) -> dict[str, Any]:
        """The history entry; SOURCE_DATE_EPOCH fixes the clock."""
        fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
        epoch = int(fixed) if fixed.isdecimal() else None
        moment = datetime.datetime.fromtimestamp(self.started if epoch is None else epoch, datetime.UTC)
        return {
            "stage": self.stage,
            "config": dict(self.config),
            "seed": self.seed,
            "inputs": [{"content": bundle.content, "kind": bundle.kind} for bundle in self.inputs],
            "metrics": dict(self.metrics),
            "time": {
                "started": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "seconds": round(self.seconds, 3) if epoch is None else 0,
            },
            "host": dict(self.host),
        }


class Bundle:
    """A `.ddset` file, or one about to be written. Immutable; tensors are read when asked for."""

    def __init__(self, manifest: Manifest, sources: Mapping[str, Source], name: str) -> None:
        self.manifest = manifest
        self.name = name
        self._sources = dict(sources)

    @classmethod
    def open(cls, source: str | os.PathLike[str], *, verify: bool = False) -> Bundle:
        """Open a file, or stdin as `-`.

        Args:
            source: path of the file.
            verify: also read every tensor and check its digest.

        Raises:
            BundleError: not a bundle, damaged, or of a newer major version.
            ResourceError: the file may not be read.
        """
        name = "<stdin>" if os.fspath(source) == "-" else os.fspath(source)
        file = open_input(source)
        size = os.fstat(file.fileno()).st_size
        header, manifest = read_manifest(file, size, name)
        sources = _file_sources(file, header, manifest, name)
        bundle = cls(manifest, sources, name)
        problems = bundle.verify() if verify else []
        if problems:
            raise BundleError("; ".join(problems[:5]))
        return bundle

    @classmethod
    def create(
        cls, kind: str, data: Mapping[str, Any] | None, record: StageRecord, sections: Sequence[NewSection]
    ) -> Bundle:
        """A new bundle from nothing but sections."""
        document: dict[str, Any] = {
            "format": list(FORMAT),
            "kind": kind,
            "requires": [],
            "data": None if data is None else dict(data),
            "sections": [],
            "history": [record.entry()],
            "evaluations": [],
        }
        return cls._assemble(document, {}, sections, f"<{record.stage}>")

    @property
    def kind(self) -> str:
        """distilled, teacher or partial."""
        return self.manifest.kind

    @property
    def content(self) -> str:
        """Content digest: the identity of what the bundle says and holds."""
        return content_digest(self.manifest)

    def sections(self, kind: str | None = None) -> list[Section]:
        """All sections, or those of one kind, in file order."""
        return [section for section in self.manifest.sections if kind is None or section.kind == kind]

    def has(self, name: str) -> bool:
        """Whether there is a section of that name."""
        return any(section.name == name for section in self.manifest.sections)

    def section(self, name: str) -> Section:
        """One section.

        Raises:
            BundleError: there is none, or using it needs a newer ddlabel.
        """
        for section in self.manifest.sections:
            if section.name == name:
                unknown = section_features(section.record) - UNDERSTOOD
                if unknown:
                    raise BundleError(
                        f"{self.name}: section '{name}' requires '{sorted(unknown)[0]}', unknown to this ddlabel",
                        field="requires",
                        hint="install a newer ddlabel; the bundle can still be inspected and copied",
                    )
                return section
        have = ", ".join(section.name for section in self.manifest.sections)
        raise BundleError(f"{self.name}: no section '{name}' (sections: {have})", field=name)

    def images_digest(self) -> str:
        """Identity of the images; what labels made for them carry as `of`."""
        return images_digest(self.section("images").tensors)

    def read(self, tensor: str) -> tuple[str, tuple[int, ...], bytearray]:
        """Dtype, shape and checked bytes of a tensor, decompressed.

        Raises:
            BundleError: no such tensor, or its bytes are not those that were written.
        """
        record = self._record(tensor)
        source = self._sources[tensor]
        label = f"{self.name}: '{tensor}'"
        data = source.read() if isinstance(source, FileTensor) else bytearray(source.data)
        if "packed" in record:
            packed = record["packed"]
            return packed["dtype"], tuple(packed["shape"]), unpack(data, packed, label)
        return source.dtype, source.shape, data

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor that owns its memory, decompressed and checked."""
        dtype, shape, data = self.read(name)
        return to_torch(dtype, shape, data, f"{self.name}: '{name}'")

    def slice(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows start to stop of a big plain tensor, without reading or checking the rest.

        Raises:
            BundleError: the tensor is packed or has no such rows.
        """
        source = self._sources[name]
        if "packed" in self._record(name) or not source.shape or not 0 <= start <= stop <= source.shape[0]:
            raise BundleError(f"{self.name}: '{name}' has no rows {start} to {stop} to slice", field=name)
        row = source.nbytes // source.shape[0] if source.shape[0] else 0
        if isinstance(source, FileTensor):
            data = bytearray(source.pread(start * row, (stop - start) * row))
        else:
            data = bytearray(source.data[start * row : stop * row])
        return to_torch(source.dtype, (stop - start, *source.shape[1:]), data, f"{self.name}: '{name}'")

    def verify(self) -> list[str]:
        """Read every tensor; one sentence per damaged one."""
        problems = []
        for name in self._sources:
            try:
                self.read(name) if "packed" in self._record(name) else _drain(self._sources[name])
            except BundleError as error:
                problems.append(str(error))
        return problems

    def with_stage(self, record: StageRecord, *, add: Sequence[NewSection] = (), drop: Sequence[str] = ()) -> Bundle:
        """A new bundle: sections replaced by name, added or dropped, history one longer.

        Labels made for images that are replaced or dropped become stale, unless they are replaced too.
        """
        replaced = {section.name for section in add} | set(drop)
        document = {key: value for key, value in self.manifest.document.items() if key != "storage"}
        kept = [dict(entry) for entry in document["sections"] if entry["name"] not in replaced]
        if "images" in replaced:
            kept = [entry | ({"stale": True} if "of" in entry else {}) for entry in kept]
        document["sections"] = kept
        document["history"] = [*document["history"], record.entry()]
        if len(document["history"]) > MAX_HISTORY:
            raise BundleError(f"{self.name}: history has {MAX_HISTORY} entries, the most a bundle may have")
        sources = {name: self._sources[name] for entry in kept for name in entry["tensors"]}
        return self._assemble(document, sources, add, self.name)

    def with_evaluation(self, record: StageRecord, evaluation: Mapping[str, Any]) -> Bundle:
        """A new bundle with one more score."""
        longer = self.with_stage(record)
        document = {key: value for key, value in longer.manifest.document.items() if key != "storage"}
        document["evaluations"] = [*document["evaluations"], dict(evaluation)]
        return self._assemble(document, longer._sources, (), self.name)

    def save(self, path: str | os.PathLike[str], *, force: bool = False, durable: bool = True) -> None:
        """Write the file, whole or not at all; `-` is stdout. Tensors of another file are copied piece by piece.

        Raises:
            UsageError: the file exists and `force` is not set.
            ResourceError: it cannot be written.
            BundleError: a tensor copied from another file is damaged.
        """
        header, manifest_bytes, entries = self._layout()
        with atomic_output(path, force=force, durable=durable) as file:
            file.write(header)
            file.write(manifest_bytes)
            for entry in entries[1:]:
                if entry.name not in self._sources:
                    file.write(bytes(entry.nbytes))
                    continue
                for part in self._sources[entry.name].chunks():
                    file.write(part)

    def _layout(self) -> tuple[bytes, bytes, list[TensorEntry]]:
        """Header, padded manifest frame and tensor entries of the file, with a storage report that is exact."""
        document = self.manifest.document
        tensors = [
            (name, self._sources[name].dtype, self._sources[name].shape, self._sources[name].nbytes)
            for section in document["sections"]
            for name in section["tensors"]
        ]
        size = _manifest_size(document)
        while True:
            header, entries = build_header([(MANIFEST, "U8", (size,), size), *tensors])
            frame = write_frame(Manifest(_with_storage(document, len(header), size, entries)).to_json())
            if len(frame) == size or len(frame) <= size - SKIPPABLE_HEADER:
                return header, pad_frame(frame, size), entries
            size += ALIGNMENT

    def _record(self, tensor: str) -> Mapping[str, Any]:
        for section in self.manifest.sections:
            if tensor in section.tensors:
                record: Mapping[str, Any] = section.tensors[tensor]
                return record
        raise BundleError(f"{self.name}: no tensor '{tensor}'", field=tensor)

    @classmethod
    def _assemble(
        cls, document: dict[str, Any], sources: Mapping[str, Source], add: Sequence[NewSection], name: str
    ) -> Bundle:
        """Put sections in file order, compute `requires` and the storage report, and check the result."""
        everything = dict(sources)
        records = list(document["sections"])
        for section in add:
            record, own = _section_record(section)
            records.append(record)
            everything |= own
        document = dict(document)
        document["sections"] = sorted(records, key=_place)
        document["requires"] = required_features(document["sections"], document["data"])
        bundle = cls(Manifest(document), everything, name)
        header, padded, entries = bundle._layout()
        final = _with_storage(document, len(header), len(padded), entries)
        return cls(Manifest.parse(Manifest(final).to_json(), name), everything, name)


def read_manifest(file: BinaryIO, size: int | None, name: str) -> tuple[Header, Manifest]:
    """Read header and manifest from the start of a file or pipe, and nothing more when the manifest comes first.

    Args:
        file: positioned at its first byte.
        size: bytes of the file; None for a pipe, whose end is then not checked.
        name: name of the file, for messages.

    Raises:
        BundleError: anything malformed.
    """
    header = parse_header(file.read, size, name)
    entry = header.entries.get(MANIFEST)
    if entry is None:
        raise BundleError(f"{name}: no tensor '{MANIFEST}', expected the manifest", field=MANIFEST)
    if entry.dtype != "U8" or len(entry.shape) != 1 or not entry.nbytes or entry.nbytes > MAX_MANIFEST_BYTES:
        raise BundleError(f"{name}: '{MANIFEST}' is {entry.dtype} {entry.shape}, expected a U8 stream", field=MANIFEST)
    if entry.start:
        if size is None:
            raise BundleError(f"{name}: the manifest is not the first tensor, so a pipe cannot be read")
        file.seek(header.data_start + entry.start)
    text = read_frame(file.read(entry.nbytes), MAX_MANIFEST_BYTES, f"{name}: manifest")
    manifest = Manifest.parse(text, name)
    _check_tensors(header, manifest, name)
    if size is not None:
        check_size(header, size, name)
    return header, manifest


def _check_tensors(header: Header, manifest: Manifest, name: str) -> None:
    """Every tensor of the section table is in the header as described; every other one is padding or unknown."""
    listed = {tensor: record for section in manifest.sections for tensor, record in section.tensors.items()}
    for tensor, record in listed.items():
        entry = header.entries.get(tensor)
        if entry is None:
            raise BundleError(f"{name}: the manifest lists tensor '{tensor}', the file does not hold it", field=tensor)
        stored = {"dtype": entry.dtype, "shape": list(entry.shape), "bytes": entry.nbytes}
        for key, value in stored.items():
            if record[key] != value:
                raise BundleError(
                    f"{name}: tensor '{tensor}' has {key} {value}, its manifest says {record[key]}", field=tensor
                )
    for tensor in header.entries.keys() - listed.keys() - {MANIFEST}:
        if not tensor.startswith("pad."):
            raise BundleError(f"{name}: tensor '{tensor}' belongs to no section of the manifest", field=tensor)
    reported = manifest.storage["total"]
    actual = header.data_start + header.data_bytes
    if reported != actual:
        raise BundleError(f"{name}: storage report says {reported} bytes, the file has {actual}", field="storage")


def _file_sources(file: BinaryIO, header: Header, manifest: Manifest, name: str) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for section in manifest.sections:
        for tensor, record in section.tensors.items():
            entry = header.entries[tensor]
            sources[tensor] = FileTensor(
                file,
                header.data_start + entry.start,
                entry.dtype,
                entry.shape,
                entry.nbytes,
                record["sha256"],
                f"{name}: '{tensor}'",
            )
    return sources


def _section_record(section: NewSection) -> tuple[dict[str, Any], dict[str, Source]]:
    """The manifest's record of a new section, and where its bytes are."""
    sources: dict[str, Source] = {}
    tensors: dict[str, Any] = {}
    for name, value in section.tensors.items():
        source, packed = _source(value)
        sources[name] = source
        tensors[name] = {
            "dtype": source.dtype,
            "shape": list(source.shape),
            "bytes": source.nbytes,
            "sha256": source.sha256,
        } | ({"packed": packed} if packed else {})
    record: dict[str, Any] = {
        "name": section.name,
        "kind": section.kind,
        "parameters": dict(section.parameters),
        "tensors": tensors,
    }
    for key in ("role", "codec", "domain", "views", "range", "of", "teacher", "fidelity", "refined", "zip_bytes"):
        value = getattr(section, key)
        if value is not None:
            record[key] = list(value) if key == "teacher" else value
    return record, sources


def _source(value: Any) -> tuple[Source, dict[str, Any] | None]:
    if isinstance(value, Packed):
        raw = value.tensor if isinstance(value.tensor, RawTensor) else RawTensor.of(value.tensor)
        return pack(raw)
    if isinstance(value, Spooled):
        return value.source, None
    return (value if isinstance(value, RawTensor) else RawTensor.of(value)), None


def _place(record: Mapping[str, Any]) -> tuple[int, list[int | str]]:
    """Sort key of a section: by kind, then by name with numbers in numeric order."""
    name = str(record["name"])
    head = name if name in _ORDER else name.split(".", 1)[0]
    rank = _ORDER.index(head) if head in _ORDER else _ORDER.index("")
    return rank, [f"{int(part):09d}" if part.isdecimal() else part for part in name.split(".")]


def _with_storage(
    document: Mapping[str, Any], header: int, manifest: int, entries: Sequence[TensorEntry]
) -> dict[str, Any]:
    padding = sum(entry.nbytes for entry in entries if entry.name.startswith("pad."))
    classes = len(document["data"]["classes"]) if document["data"] else None
    report = storage.report(document["sections"], classes, header=header, manifest=manifest, padding=padding)
    return {**document, "storage": report}


def _manifest_size(document: Mapping[str, Any]) -> int:
    """A first guess of the padded frame, a multiple of 64."""
    guess = len(write_frame(Manifest(document).to_json()))
    return guess + -guess % ALIGNMENT


def _drain(source: Source) -> None:
    for _part in source.chunks():
        pass
