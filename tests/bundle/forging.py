"""Small bundles of every kind, and an independent writer that forges files with exactly one rule broken."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import zstandard

from ddlabel.bundle import Bundle, NewSection, Packed, RawTensor, StageRecord

fault = pytest.mark.fault
"""Marks a numbered fault."""
IMAGES = "images.pixels"
MANIFEST = "manifest.json.zst"
DATA: dict[str, Any] = {
    "name": "tiny",
    "classes": ["cat", "dog"],
    "channels": 1,
    "height": 4,
    "width": 4,
    "train_images": 10,
    "fingerprint": "ab" * 32,
    "validation": {"fraction": 0.1},
    "flip": True,
    "space": {"kind": "normalised", "mean": [0.5], "std": [0.25]},
}


def case(mark: pytest.MarkDecorator, what: str, *values: Any) -> Any:
    """One parameter of a table of numbered faults."""
    return pytest.param(*values, id=f"fault {mark.args[0]}: {what}", marks=mark)


def stage_record(stage: str = "distill", **changes: Any) -> StageRecord:
    """What some stage did, on a fixed day."""
    values: dict[str, Any] = {
        "stage": stage,
        "config": {"ipc": 2, "lr": 0.5},
        "seed": 0,
        "inputs": [],
        "metrics": {"loss": 0.25},
        "seconds": 1.5,
        "started": 1_700_000_000.0,
        "host": {"device": "cpu", "threads": 1, "versions": {"ddlabel": "0.1.0"}},
    }
    return StageRecord(**(values | changes))


def images_section(count: int = 4, first: int = 0) -> NewSection:
    """Images (count, 1, 4, 4) uint8 with counting pixels."""
    pixels = bytes((first + index) % 256 for index in range(16 * count))
    return NewSection("images", "images", {IMAGES: RawTensor("U8", (count, 1, 4, 4), pixels)}, range="uint8")


def hard_section(count: int = 4) -> NewSection:
    """Hard labels 0, 1, 0, 1, ..."""
    labels = RawTensor("U8", (count,), bytes(index % 2 for index in range(count)))
    return NewSection("labels.hard", "labels", {"labels.hard": labels}, role="hard", views=1)


def soft_section(of: str, count: int = 4) -> NewSection:
    """One float32 logit vector per image."""
    values = RawTensor("F32", (count, 1, 2), struct.pack(f"<{2 * count}f", *range(2 * count)))
    return NewSection(
        "labels.soft",
        "labels",
        {"labels.soft.values": values},
        role="soft",
        codec={"name": "f32", "parameters": {}},
        domain="logit",
        views=1,
        of=of,
        teacher=["cd" * 32],
        fidelity={"cosine": 1.0},
    )


def dense_section(of: str, count: int = 4, views: int = 9) -> NewSection:
    """Codes of `views` views per image that compress well, and their scales."""
    codes = RawTensor("U8", (count, views, 2), bytes(count * views * 2))
    scales = RawTensor("F16", (count, views), b"\x00\x3c" * (count * views))
    return NewSection(
        "labels.dense",
        "labels",
        {"labels.dense.codes": Packed(codes), "labels.dense.scale": Packed(scales)},
        role="dense",
        codec={"name": "q8", "parameters": {}},
        domain="logit",
        views=views,
        parameters={"grid": 3, "ratio": "5/8", "size": 4},
        of=of,
        teacher=["cd" * 32],
        refined={"method": "gift"},
    )


def teacher_section(member: int = 0, epoch: int = 10) -> NewSection:
    """A net of two tensors."""
    name = f"teacher.{member}.{epoch}"
    tensors = {
        f"{name}.weight": RawTensor("F32", (2, 3), struct.pack("<6f", *range(6))),
        f"{name}.steps": RawTensor("I64", (), struct.pack("<q", epoch)),
    }
    return NewSection(name, "teacher", tensors, parameters={"epoch": epoch, "arch": "mlp"})


def make_distilled(*, rich: bool = True) -> Bundle:
    """A distilled bundle; a rich one has soft and dense labels and something of every other kind."""
    bundle = Bundle.create("distilled", DATA, stage_record(), [hard_section(), images_section()])
    if not rich:
        return bundle
    digest = bundle.images_digest()
    more = [
        dense_section(digest),
        soft_section(digest),
        teacher_section(),
        NewSection("student", "student", {"student.lr": RawTensor("F32", (), struct.pack("<f", 0.01))}),
        NewSection("scores.loss", "scores", {"scores.loss": RawTensor("F32", (3,), bytes(12))}, role="loss"),
        NewSection("novel.thing", "novelty", {"novel.thing": RawTensor("I16", (3,), b"abcdef")}),
    ]
    longer = bundle.with_stage(stage_record("augment-labels", inputs=[bundle]), add=more)
    return longer.with_evaluation(stage_record("evaluate", inputs=[longer]), {"accuracy": {"mean": 0.5}})


def as_bytes(bundle: Bundle) -> bytes:
    """The file a bundle would be."""
    stream = io.BytesIO()
    bundle.write_to(stream)
    return stream.getvalue()


def reopen(data: bytes, *, verify: bool = False) -> Bundle:
    """Open the bytes of a file."""
    return Bundle.open(io.BytesIO(data), verify=verify)


@dataclass
class Forgery:
    """A file taken apart: change anything, then `build` it again with honest offsets, sizes and storage report."""

    document: dict[str, Any]
    tensors: dict[str, tuple[str, list[int], bytes]]
    """Dtype, shape and bytes by name, in file order, without manifest and padding."""
    extra: list[tuple[str, str, list[int], bytes]] = field(default_factory=list)
    """More tensors, at the end."""

    @classmethod
    def of(cls, data: bytes) -> Forgery:
        """Take a file apart with nothing but the standard library and zstandard."""
        header, base = split(data)
        frame = section_bytes(data, header[MANIFEST], base)
        document = json.loads(zstandard.ZstdDecompressor().decompress(frame))
        ours = {name: entry for name, entry in header.items() if name not in {MANIFEST, "__metadata__"}}
        return cls(
            document,
            {
                name: (entry["dtype"], entry["shape"], section_bytes(data, entry, base))
                for name, entry in ours.items()
                if not name.startswith("pad.")
            },
        )

    def build(
        self,
        *,
        frame: Callable[[bytes], bytes] | None = None,
        manifest: tuple[str, str, Callable[[int], list[int]]] = (MANIFEST, "U8", lambda size: [size]),
        manifest_last: bool = False,
        text: bytes | None = None,
        honest: bool = True,
    ) -> bytes:
        """The forged file.

        Args:
            frame: turns manifest JSON into the manifest's bytes; default a proper frame, padded.
            manifest: name, dtype and shape of the manifest tensor.
            manifest_last: put the manifest at the end of the file.
            text: manifest JSON to use instead of the document.
            honest: make storage report and file agree.
        """
        body = [(name, *rest) for name, rest in self.tensors.items()] + list(self.extra)
        size = 64 * (2 + len(json.dumps(self.document)) // 64)
        document = copy.deepcopy(self.document)
        for _round in range(3):
            header = _header(self._order(manifest, size, body, manifest_last))
            if honest:
                _report_honestly(document, len(header), size, body)
        plain = text if text is not None else json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        if frame is None:
            packed = zstandard.ZstdCompressor(write_checksum=True).compress(plain)
            packed += b"\x50\x2a\x4d\x18" + struct.pack("<I", size - len(packed) - 8) + bytes(size - len(packed) - 8)
        else:
            packed = frame(plain)
            header = _header(self._order(manifest, len(packed), body, manifest_last))
        parts = [content for _name, _dtype, _shape, content in body]
        return header + b"".join([*parts, packed] if manifest_last else [packed, *parts])

    def build_head(self) -> bytes:
        """Header and manifest of the forged file, for tensors too large to hold."""
        total = sum(len(content) for _dtype, _shape, content in self.tensors.values())
        whole = self.build()
        return whole if total > len(whole) else whole[:-total]

    @staticmethod
    def _order(manifest: Any, size: int, body: Sequence[Any], last: bool) -> list[tuple[str, str, list[int], int]]:
        name, dtype, shape = manifest
        entry = (name, dtype, shape(size), size)
        others = [(name, dtype, shape, len(content)) for name, dtype, shape, content in body]
        return [*others, entry] if last else [entry, *others]

    def section(self, name: str) -> dict[str, Any]:
        """The record of a section, to be changed."""
        return next(record for record in self.document["sections"] if record["name"] == name)

    def replace_data(self, tensor: str, content: bytes) -> None:
        """Give a plain tensor other bytes, and the manifest their digest."""
        dtype, shape, _old = self.tensors[tensor]
        self.tensors[tensor] = (dtype, shape, content)
        for record in self.document["sections"]:
            if tensor in record["tensors"]:
                record["tensors"][tensor]["sha256"] = hashlib.sha256(content).hexdigest()


def split(data: bytes) -> tuple[dict[str, Any], int]:
    """Header as JSON, and where the data starts."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), 8 + length


def section_bytes(data: bytes, entry: Mapping[str, Any], base: int) -> bytes:
    """The bytes of a header entry."""
    start, end = entry["data_offsets"]
    return data[base + start : base + end]


def _header(tensors: Sequence[tuple[str, str, list[int], int]]) -> bytes:
    document: dict[str, Any] = {"__metadata__": {"ddset": "1"}}
    position = 0
    for name, dtype, shape, size in tensors:
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(document).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text


def _report_honestly(document: dict[str, Any], header: int, manifest: int, body: Sequence[Any]) -> None:
    sections = document.get("sections")
    listed = {name for record in sections for name in record["tensors"]}
    container = {
        "header": header,
        "manifest": manifest,
        "padding": 0,
        "unlisted": sum(len(content) for name, _dtype, _shape, content in body if name not in listed),
    }
    entries = {
        record["name"]: {
            "kind": record["kind"],
            "raw": 0,
            "stored": sum(tensor["bytes"] for tensor in record["tensors"].values()),
        }
        for record in sections
    }
    stored = sum(entry["stored"] for entry in entries.values())
    document["storage"] |= {
        "container": container,
        "sections": entries,
        "total": sum(container.values()) + stored,
    }
