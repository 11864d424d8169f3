"""What a stage hands to a bundle: new sections with their tensors, and a record of what it did."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .digests import images_digest
from .errors import UsageError
from .manifest_rules import SECTION_ORDER
from .packing import Packed, pack
from .tensors import FileTensor, RawTensor

if TYPE_CHECKING:
    from .bundle import Bundle

__all__ = ["OPTIONAL", "NewSection", "Source", "StageRecord", "fixed_clock", "mark_stale", "place", "section_record"]

Source = RawTensor | FileTensor
OPTIONAL = ("role", "codec", "domain", "views", "range", "of", "teacher", "fidelity", "refined", "zip_bytes")
"""Keys of the section table that not every section has."""


@dataclass(frozen=True)
class NewSection:
    """A section on its way into a bundle."""

    name: str
    kind: str
    """images, labels, transform, student, scores, teacher, trajectory or state."""
    tensors: Mapping[str, Any]
    """By full name (`labels.dense.codes`): torch tensors, numpy arrays, `RawTensor`, `Packed`, or tensors of a `Spool`.
    Tensors of labels start with the image axis; with a codec, the view axis is next."""
    role: str | None = None
    """Label kind, or what a score is of."""
    codec: Mapping[str, Any] | None = None
    """`{"name": ..., "parameters": {...}}`."""
    domain: str | None = None
    """logit, prob, logprob or unit."""
    views: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    range: str | None = None
    """Of images: `uint8` pixels, or `float32` in model-input space."""
    of: str | None = None
    """`Bundle.images_digest()` of the images that labels were made for; without it they never become stale."""
    teacher: Sequence[str] | None = None
    """Content digests of the teachers that made labels."""
    fidelity: Mapping[str, Any] | None = None
    refined: Mapping[str, Any] | None = None
    zip_bytes: int | None = None
    """`storage.zip_bytes` of the section's uncompressed reference."""


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
        """The history entry; SOURCE_DATE_EPOCH fixes the clock.

        Raises:
            UsageError: SOURCE_DATE_EPOCH is set to something that is no time.
        """
        epoch = fixed_clock()
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


def section_record(section: NewSection) -> tuple[dict[str, Any], dict[str, Source]]:
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
    optional = {key: getattr(section, key) for key in OPTIONAL}
    record = {
        "name": section.name,
        "kind": section.kind,
        "parameters": dict(section.parameters),
        "tensors": tensors,
    } | {key: value for key, value in optional.items() if value is not None}
    return record, sources


def mark_stale(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Mark the sections that were made for other images than those in the table."""
    images = next((record for record in records if record["name"] == "images"), None)
    digest = None if images is None else images_digest(images["tensors"])
    return [{**record, "stale": True} if "of" in record and record["of"] != digest else record for record in records]


def place(name: str) -> tuple[int, list[str]]:
    """Sort key of a section in the file: by kind, then by name with numbers in numeric order."""
    head = name if name in SECTION_ORDER else name.split(".", 1)[0]
    rank = SECTION_ORDER.index(head) if head in SECTION_ORDER else SECTION_ORDER.index("")
    return rank, [f"{int(part):020d}" if part.isdecimal() else part for part in name.split(".")]


def _source(value: Any) -> tuple[Source, dict[str, Any] | None]:
    if isinstance(value, Packed):
        return pack(RawTensor.of(value.tensor))
    return (value if isinstance(value, FileTensor) else RawTensor.of(value)), None


def fixed_clock() -> int | None:
    """Seconds since 1970 that SOURCE_DATE_EPOCH fixes the clock of bundles at; None where it is not set.

    Raises:
        UsageError: it is set to something that is no time.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) < 253_402_300_800):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is '{text[:40]}', expected whole seconds since 1970 before the year 10000",
            field="SOURCE_DATE_EPOCH",
            hint="unset it, or set it to an integer",
        )
    return int(text)
