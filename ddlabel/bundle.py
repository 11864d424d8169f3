"""The bundle: one `.ddset` file, opened lazily, never changed; a stage makes a new one.

`docs/format.md` is the normative description. Opening reads header and manifest only. Tensors are read when asked for,
and checked against their digest on the bytes used.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

from . import digests, storage
from .digests import canonical_json
from .errors import BundleError, UsageError
from .fsio import atomic_output
from .header import Header, TensorEntry, misaligned
from .manifest import Manifest, Section, normalise
from .manifest_rules import FORMAT, is_padding_name, required_features, section_features, understands
from .packing import Packed, unpack
from .reader import open_source, read_manifest, unlisted
from .sections import OPTIONAL, NewSection, Source, StageRecord, mark_stale, section_record
from .tensors import FileTensor, OpenFile, RawTensor, Spool, to_torch
from .writer import lay_out

if TYPE_CHECKING:
    import torch

__all__ = ["Bundle", "NewSection", "Packed", "RawTensor", "Section", "Spool", "StageRecord", "read_manifest"]


class Bundle:
    """A `.ddset` file, or one about to be written. Immutable; tensors are read when asked for."""

    def __init__(
        self,
        manifest: Manifest,
        sources: Mapping[str, Source],
        name: str,
        padding: Sequence[FileTensor] = (),
        misaligned: Sequence[str] = (),
    ) -> None:
        self.manifest = manifest
        self.name = name
        self._sources = dict(sources)
        self._padding = tuple(padding)
        self.misaligned = tuple(misaligned)
        """Tensors that start at no multiple of their element size in the file; reading and copying align them."""
        self._sections = {section.name: section for section in manifest.sections}
        self._section_of = {tensor: section for section in manifest.sections for tensor in section.tensors}

    @classmethod
    def open(cls, source: str | os.PathLike[str] | BinaryIO, *, verify: bool = False) -> Bundle:
        """Open a file, stdin as `-`, or a binary stream (copied to an unnamed file).

        Args:
            source: path of the file, or a stream at its first byte.
            verify: also read every tensor and check its digest.

        Raises:
            BundleError: not a bundle, damaged, or of a newer major version.
            ResourceError: the file may not be read.
        """
        stream, name = open_source(source)
        with stream:
            header, manifest = read_manifest(stream, os.fstat(stream.fileno()).st_size, name)
            file = OpenFile(stream)
        sources = _file_sources(file, header, manifest, name)
        padding = [
            _file_tensor(file, header, entry, name, hashlib.sha256(bytes(entry.nbytes)).hexdigest())
            for entry in header.entries.values()
            if is_padding_name(entry.name)
        ]
        bundle = cls(manifest, sources, name, padding, [one.name for one in header.entries.values() if misaligned(one)])
        problems = bundle.verify() if verify else []
        if problems:
            raise BundleError("; ".join(problems[:5]))
        return bundle

    @classmethod
    def create(
        cls, kind: str, data: Mapping[str, Any] | None, record: StageRecord, sections: Sequence[NewSection]
    ) -> Bundle:
        """A new bundle from nothing but sections.

        Args:
            kind: distilled, teacher or partial.
            data: the manifest's record of the real data, or None when unknown.
            record: what the stage did.
            sections: in any order.

        Raises:
            BundleError: something that readers would refuse, such as a missing section.
            DivergedError: a number to be recorded is not finite.
        """
        document: dict[str, Any] = {
            "format": list(FORMAT),
            "kind": kind,
            "requires": [],
            "data": None if data is None else dict(data),
            "sections": [],
            "history": [record.entry()],
            "evaluations": [],
        }
        return _assemble(document, {}, sections, f"<{record.stage}>")

    @property
    def kind(self) -> str:
        """distilled, teacher or partial."""
        return self.manifest.kind

    @property
    def content(self) -> str:
        """Content digest: the identity of what the bundle says and holds."""
        return self.manifest.content

    def sections(self, kind: str | None = None) -> list[Section]:
        """All sections, or those of one kind, in file order."""
        return [section for section in self.manifest.sections if kind is None or section.kind == kind]

    def has(self, name: str) -> bool:
        """Whether there is a section of that name."""
        return name in self._sections

    def section(self, name: str) -> Section:
        """One section, ready for use.

        Raises:
            BundleError: there is none, or using it needs a newer ddlabel.
        """
        section = self._sections.get(name)
        if section is None:
            have = ", ".join(self._sections) or "none"
            raise BundleError(f"{self.name}: no section '{name}' (sections: {have})", field=name)
        return self.require(section)

    def require(self, section: Section) -> Section:
        """Refuse a section that needs something this ddlabel does not know; copying it needs no such check.

        Raises:
            BundleError: naming the feature.
        """
        features = section_features(section.record) | self._needed_by_all
        unknown = sorted(feature for feature in features if not understands(feature))
        if unknown:
            raise BundleError(
                f"{self.name}: section '{section.name}' requires '{unknown[0]}', unknown to this ddlabel",
                field="requires",
                hint="install a newer ddlabel; the bundle can still be inspected and copied",
            )
        return section

    def images_digest(self) -> str:
        """Identity of the images; what labels made for them carry as `of`."""
        return digests.images_digest(self.section("images").tensors)

    def read(self, tensor: str) -> tuple[str, tuple[int, ...], bytearray]:
        """Dtype, shape and checked bytes of a tensor, decompressed.

        Raises:
            BundleError: no such tensor, or its bytes are not those that were written.
        """
        packed = self._record(tensor).get("packed")
        source = self._sources[tensor]
        if packed is None:
            return source.dtype, source.shape, source.read()
        return packed["dtype"], tuple(packed["shape"]), unpack(source.read(), packed, self._label(tensor))

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor that owns its memory, decompressed and checked."""
        dtype, shape, data = self.read(name)
        return to_torch(dtype, shape, data, self._label(name))

    def check_tensor(self, name: str) -> None:
        """Read a tensor piece by piece and compare its digest, keeping nothing.

        Raises:
            BundleError: there is none, or its bytes are not those that were written.
        """
        self._record(name)
        for _part in self._sources[name].chunks():
            pass

    def slice(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows start to stop of a big plain tensor, without reading or checking the rest.

        Raises:
            BundleError: the tensor is packed or has no such rows.
        """
        packed = "packed" in self._record(name)
        source = self._sources[name]
        if packed or not source.shape or not 0 <= start <= stop <= source.shape[0]:
            raise BundleError(f"{self._label(name)} has no rows {start} to {stop} to slice", field=name)
        row = source.nbytes // source.shape[0] if source.shape[0] else 0
        data = bytearray(source.pread(start * row, (stop - start) * row))
        return to_torch(source.dtype, (stop - start, *source.shape[1:]), data, self._label(name))

    def carry(self, name: str) -> NewSection:
        """A section for another bundle; plain tensors are read from this file when that one is written.

        Raises:
            BundleError: there is none, or using it needs a newer ddlabel.
        """
        section = self.section(name)
        tensors: dict[str, Any] = {
            tensor: _raw(*self.read(tensor)) if "packed" in record else self._sources[tensor]
            for tensor, record in section.tensors.items()
        }
        optional = {key: section.record[key] for key in OPTIONAL if key in section.record}
        return NewSection(name, section.kind, tensors, parameters=section.parameters, **optional)

    def verify(self) -> list[str]:
        """Read every tensor; one sentence per damaged one."""
        problems = []
        for source in (*self._sources.values(), *self._padding):
            try:
                for _part in source.chunks():
                    pass
            except BundleError as error:
                problems.append(str(error))
        return problems

    def with_stage(self, record: StageRecord, *, add: Sequence[NewSection] = (), drop: Sequence[str] = ()) -> Bundle:
        """A new bundle: sections replaced by name, added or dropped, history one longer.

        Labels made for images that are replaced or dropped become stale, unless they are replaced too.

        Raises:
            UsageError: a section to drop is not there.
            BundleError: something that readers would refuse, such as a missing section or a history too long.
            DivergedError: a number to be recorded is not finite.
        """
        return self._next(record, add, drop, ())

    def with_evaluation(self, record: StageRecord, evaluation: Mapping[str, Any]) -> Bundle:
        """A new bundle with one more score."""
        return self._next(record, (), (), (evaluation,))

    def save(self, path: str | os.PathLike[str], *, force: bool = False, durable: bool = True) -> None:
        """Write the file, whole or not at all; `-` is stdout. Tensors of another file are copied piece by piece.

        Raises:
            UsageError: the file exists and `force` is not set.
            ResourceError: it cannot be written.
            BundleError: a tensor copied from another file is damaged.
        """
        layout = lay_out(self.manifest.document, self._sources, self.name)
        with atomic_output(path, force=force, durable=durable) as file:
            layout.write(self._sources, file.write)

    def write_to(self, stream: BinaryIO) -> None:
        """Write the same bytes to an open, buffered stream."""
        layout = lay_out(self.manifest.document, self._sources, self.name)
        layout.write(self._sources, stream.write)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the bytes of its file, since a file that is open here is not open in another process."""
        stream = io.BytesIO()
        self.write_to(stream)
        return _reopened, (stream.getvalue(), self.name)

    @cached_property
    def _needed_by_all(self) -> set[str]:
        """Features in `requires` that no section explains, so that every section may need them."""
        return set(self.manifest.requires).difference(*(section_features(item.record) for item in self.sections()))

    def _label(self, tensor: str) -> str:
        return f"{self.name}: '{tensor}'"

    def _record(self, tensor: str) -> Mapping[str, Any]:
        section = self._section_of.get(tensor)
        if section is None:
            raise BundleError(f"{self.name}: no tensor '{tensor}'", field=tensor)
        record: Mapping[str, Any] = self.require(section).tensors[tensor]
        return record

    def _next(
        self,
        record: StageRecord,
        add: Sequence[NewSection],
        drop: Sequence[str],
        evaluations: Sequence[Mapping[str, Any]],
    ) -> Bundle:
        for name in drop:
            if not self.has(name):
                raise UsageError(f"{self.name}: no section '{name}' to drop", field=name)
        replaced = {section.name for section in add} | set(drop)
        old = self.manifest.document
        dropped = {tensor for name in replaced if self.has(name) for tensor in self._sections[name].tensors}
        document = {key: value for key, value in old.items() if key != "storage"} | {
            "sections": [entry for entry in old["sections"] if entry["name"] not in replaced],
            "history": [*old["history"], record.entry()],
            "evaluations": [*old["evaluations"], *evaluations],
            "requires": sorted(set(old["requires"]) - required_features(old["sections"], old["data"])),
        }
        sources = {name: source for name, source in self._sources.items() if name not in dropped}
        return _assemble(document, sources, add, self.name)


def _raw(dtype: str, shape: tuple[int, ...], data: bytearray) -> RawTensor:
    return RawTensor(dtype, shape, bytes(data))


def _reopened(data: bytes, name: str) -> Bundle:
    """A bundle that was pickled."""
    bundle = Bundle.open(io.BytesIO(data))
    bundle.name = name
    return bundle


def _assemble(document: dict[str, Any], sources: Mapping[str, Source], add: Sequence[NewSection], name: str) -> Bundle:
    """Put sections in file order, compute `requires`, stale marks and the storage report, and check the result."""
    everything = dict(sources)
    records = list(document["sections"])
    for section in add:
        record, own = section_record(section)
        records.append(record)
        everything |= own
    document["sections"] = mark_stale(records)
    document["storage"] = storage.report([], None, header=0, manifest=0, padding=0)
    checked = normalise(document, name)
    features = required_features(checked["sections"], checked["data"])
    checked["requires"] = sorted({*checked["requires"], *features})
    del checked["storage"]
    layout = lay_out(checked, everything, name)
    bundle = Bundle(Manifest.parse(canonical_json(layout.document), name), everything, name)
    for section in add:
        bundle.section(section.name)  # what this installation cannot use, it does not write
    return bundle


def _file_sources(file: OpenFile, header: Header, manifest: Manifest, name: str) -> dict[str, Source]:
    """Where the tensors of the section table are, and the foreign ones, which have no digest."""
    known = {
        tensor: _file_tensor(file, header, header.entries[tensor], name, record["sha256"])
        for section in manifest.sections
        for tensor, record in section.tensors.items()
    }
    foreign = {entry.name: _file_tensor(file, header, entry, name, None) for entry in unlisted(header, manifest)}
    return {**known, **foreign}


def _file_tensor(file: OpenFile, header: Header, entry: TensorEntry, name: str, sha256: str | None) -> FileTensor:
    label = f"{name}: '{entry.name}'"
    return FileTensor(file, header.data_start + entry.start, entry.dtype, entry.shape, entry.nbytes, sha256, label)
