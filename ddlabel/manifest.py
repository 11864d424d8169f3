"""The manifest: what a bundle says of itself, as canonical JSON in one zstd frame.

`Manifest` and `Section` are views of that JSON: keys of newer minor versions are kept and written back.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import BundleError
from .header import strict_json
from .schema import Anything, Array, Choice, Map, Nullable, Number, Record, Text, Truth, Whole

__all__ = ["FORMAT", "MANIFEST_SPEC", "Manifest", "Section", "canonical_json", "content_digest", "printable"]

FORMAT = (1, 0)
"""Major and minor version written. The major number changes when older readers must refuse."""
KINDS = ("distilled", "teacher", "partial")
DOMAINS = ("logit", "prob", "logprob", "unit")
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_SECTIONS = 65_536
MAX_HISTORY = 4_096
MAX_EVALUATIONS = 4_096
MAX_CLASSES = 100_000
MAX_REQUIRES = 256

_DIGEST = Text("[0-9a-f]{64}")
_SHAPE = Array(Whole(), 8)
_TENSOR = Record(
    {"dtype": Text("[A-Z0-9_]{2,16}"), "shape": _SHAPE, "bytes": Whole(), "sha256": _DIGEST},
    {
        "packed": Record(
            {
                "method": Text("[a-z0-9-]{1,32}"),
                "shuffle": Whole(1, 8),
                "dtype": Text("[A-Z0-9_]{2,16}"),
                "shape": _SHAPE,
                "bytes": Whole(),
                "sha256": _DIGEST,
            }
        )
    },
)
_SECTION = Record(
    {
        "name": Text("[a-z0-9._-]{1,255}"),
        "kind": Text("[a-z0-9-]{1,64}"),
        "parameters": Map(Anything()),
        "tensors": Map(_TENSOR),
    },
    {
        "role": Text("[a-z0-9-]{1,64}"),
        "codec": Record({"name": Text("[a-z0-9-]{1,64}"), "parameters": Map(Anything())}),
        "domain": Choice(DOMAINS),
        "views": Whole(1, 2**31),
        "range": Choice(("uint8", "float32")),
        "of": _DIGEST,
        "teacher": Array(_DIGEST, 100_000),
        "fidelity": Map(Nullable(Number())),
        "refined": Map(Anything()),
        "stale": Truth(),
        "zip_bytes": Whole(),
    },
)
_SPACE = Record(
    {"kind": Choice(("normalised", "zca")), "mean": Array(Number(), 4096), "std": Array(Number(), 4096)},
    {"epsilon": Number(), "section": Text()},
)
_DATA = Record(
    {
        "name": Text(),
        "classes": Array(Text(limit=1024), MAX_CLASSES, 1),
        "channels": Whole(1, 4096),
        "height": Whole(1, 2**16),
        "width": Whole(1, 2**16),
        "train_images": Whole(),
        "fingerprint": _DIGEST,
        "validation": Record({"fraction": Number()}),
        "flip": Truth(),
        "space": _SPACE,
    }
)
_HISTORY = Record(
    {
        "stage": Text(limit=64),
        "config": Map(Anything()),
        "seed": Nullable(Whole()),
        "inputs": Array(Record({"content": _DIGEST, "kind": Text(limit=64)}), 100_000),
        "metrics": Map(Anything()),
        "time": Record({"started": Text(limit=64), "seconds": Number()}),
        "host": Map(Anything()),
    }
)
_STORAGE = Record(
    {
        "total": Whole(),
        "container": Record({"header": Whole(), "manifest": Whole(), "padding": Whole()}),
        "sections": Map(Record({"kind": Text(), "raw": Whole(), "stored": Whole()})),
        "overhead": Record({"raw": Nullable(Number()), "stored": Nullable(Number()), "ladd_zip": Nullable(Number())}),
        "bits_per_view": Map(Number()),
        "equivalent_ipc": Nullable(Number()),
    }
)
MANIFEST_SPEC = Record(
    {
        "format": Array(Whole(), 2, 2),
        "kind": Choice(KINDS),
        "requires": Array(Text("[a-z0-9._-]{1,64}"), MAX_REQUIRES),
        "data": Nullable(_DATA),
        "sections": Array(_SECTION, MAX_SECTIONS),
        "history": Array(_HISTORY, MAX_HISTORY, 1),
        "evaluations": Array(Map(Anything()), MAX_EVALUATIONS),
        "storage": _STORAGE,
    }
)
"""Every field of the manifest and its type; `docs/manifest.schema.json` is generated from it."""

REQUIRED_SECTIONS = {
    "distilled": ("images", "labels.hard"),
    "teacher": ("teacher.",),
    "partial": ("state.",),
}
"""What each kind must hold at least: section names, or prefixes ending with a dot."""

UNDERSTOOD = frozenset({"codec.q8", "labels.dense", "labels.refined", "space.zca", "packed.zstd"})
"""Features this version can use; a bundle that requires another one opens, but the section is refused."""


class Section:
    """One entry of the section table."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record

    @property
    def name(self) -> str:
        """Unique name, such as `labels.dense`."""
        return str(self.record["name"])

    @property
    def kind(self) -> str:
        """images, labels, transform, student, scores, teacher, trajectory, state, or one of a newer version."""
        return str(self.record["kind"])

    @property
    def role(self) -> str | None:
        """Label kind (hard, soft, dense), or what a score is of."""
        return self.record.get("role")

    @property
    def codec(self) -> Mapping[str, Any] | None:
        """Name and parameters of the label codec."""
        return self.record.get("codec")

    @property
    def domain(self) -> str | None:
        """What label values are: logit, prob, logprob, or unit (L2-normalised)."""
        return self.record.get("domain")

    @property
    def views(self) -> int | None:
        """Labelled views per image."""
        return self.record.get("views")

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the section's kind needs to know to use it."""
        parameters: Mapping[str, Any] = self.record["parameters"]
        return parameters

    @property
    def range(self) -> str | None:
        """How images are stored: uint8 pixels, or float32 in model-input space."""
        return self.record.get("range")

    @property
    def of(self) -> str | None:
        """Digest of the images that these labels were made for."""
        return self.record.get("of")

    @property
    def teacher(self) -> list[str]:
        """Content digests of the teachers that made these labels."""
        return list(self.record.get("teacher", ()))

    @property
    def refined(self) -> Mapping[str, Any] | None:
        """Which refinement made these labels, with its options."""
        return self.record.get("refined")

    @property
    def stale(self) -> bool:
        """Whether the images changed since these labels were made."""
        return bool(self.record.get("stale", False))

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Records of the section's tensors by name: dtype, shape, bytes, sha256, and `packed` where compressed."""
        tensors: Mapping[str, Any] = self.record["tensors"]
        return tensors


class Manifest:
    """A checked manifest; treat it as read-only."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    @classmethod
    def parse(cls, data: bytes, source: str) -> Manifest:
        """Parse and check canonical JSON.

        Raises:
            BundleError: anything malformed, naming the field; a newer major version.
        """
        document = strict_json(data, source, "manifest")
        _check_version(document, source)
        problems = list(_first(MANIFEST_SPEC.problems(document, ""), 5)) or list(_first(_cross_checks(document), 5))
        if problems:
            raise BundleError(f"{source}: manifest: {'; '.join(problems)}", field="manifest")
        return cls(document)

    @property
    def format(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.document["format"]
        return major, minor

    @property
    def kind(self) -> str:
        """distilled, teacher or partial."""
        return str(self.document["kind"])

    @property
    def requires(self) -> list[str]:
        """Features a reader must know to use some section."""
        return list(self.document["requires"])

    @property
    def data(self) -> Mapping[str, Any] | None:
        """The data set the bundle was made of; None when unknown."""
        data: Mapping[str, Any] | None = self.document["data"]
        return data

    @property
    def sections(self) -> list[Section]:
        """The section table, in file order."""
        return [Section(record) for record in self.document["sections"]]

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """One entry per stage, oldest first."""
        return list(self.document["history"])

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """Scores, oldest first."""
        return list(self.document["evaluations"])

    @property
    def storage(self) -> Mapping[str, Any]:
        """Where the bytes of the file go."""
        storage: Mapping[str, Any] = self.document["storage"]
        return storage

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.document)

    def with_(self, **changes: Any) -> Manifest:
        """A copy with some top-level keys replaced."""
        return Manifest({**copy.deepcopy(dict(self.document)), **changes})


def canonical_json(document: Any) -> bytes:
    """Sorted keys, no white space, UTF-8.

    Raises:
        ValueError: NaN or infinity.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8")


def content_digest(manifest: Manifest) -> str:
    """What the bundle says and holds, as sha256: without clock, host and container, and before compression.

    Same command, seed, thread count and machine give the same digest.
    """
    document = {key: value for key, value in manifest.document.items() if key != "storage"}
    document["history"] = [
        {key: value for key, value in entry.items() if key not in {"time", "host"}} for entry in document["history"]
    ]
    document["sections"] = sorted(
        (_identity(record) for record in document["sections"]), key=lambda record: str(record["name"])
    )
    return hashlib.sha256(canonical_json(document)).hexdigest()


def images_digest(tensors: Mapping[str, Any]) -> str:
    """Identity of an images section: sha256 over names, dtypes, shapes and digests of its tensors."""
    return hashlib.sha256(canonical_json(_unpacked(tensors))).hexdigest()


def printable(text: str) -> str:
    """Text safe for a terminal: control, escape and bidirectional characters are shown as escapes."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]",
        lambda match: ascii(match.group())[1:-1],
        text,
    )


def required_features(sections: Sequence[Mapping[str, Any]], data: Mapping[str, Any] | None) -> list[str]:
    """What a reader must know to use the sections, sorted."""
    features: set[str] = set()
    for record in sections:
        features.update(section_features(record))
    if data is not None and data["space"]["kind"] == "zca":
        features.add("space.zca")
    return sorted(features)


def section_features(record: Mapping[str, Any]) -> set[str]:
    """What a reader must know to use one section."""
    features: set[str] = set()
    codec = record.get("codec")
    if codec is not None and codec["name"] not in {"f32", "f16"}:
        features.add(f"codec.{codec['name']}")
    if record["kind"] == "labels" and record.get("role") not in {"hard", "soft"}:
        features.add(f"labels.{record.get('role')}")
    if "refined" in record:
        features.add("labels.refined")
    features.update(
        f"packed.{tensor['packed']['method']}" for tensor in record["tensors"].values() if "packed" in tensor
    )
    return features


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key != "zip_bytes"}
    return kept | {"tensors": _unpacked(record["tensors"])}


def _unpacked(tensors: Mapping[str, Any]) -> dict[str, Any]:
    raw = {name: record.get("packed", record) for name, record in tensors.items()}
    return {name: [record["dtype"], record["shape"], record["sha256"]] for name, record in raw.items()}


def _check_version(document: Mapping[str, Any], source: str) -> None:
    version = document.get("format")
    if isinstance(version, list) and version and type(version[0]) is int and version[0] != FORMAT[0]:
        raise BundleError(
            f"{source}: format version {version[0]}, this ddlabel reads version {FORMAT[0]}",
            field="format",
            hint="needs a newer ddlabel, or write the bundle again with this one",
        )


def _cross_checks(document: Mapping[str, Any]) -> Iterator[str]:
    """What holds between fields: unique names, required sections, label counts, storage sums."""
    names = [record["name"] for record in document["sections"]]
    tensors = [name for record in document["sections"] for name in record["tensors"]]
    if len(set(names)) < len(names):
        yield "two sections have the same name"
    if len(set(tensors)) < len(tensors):
        yield "a tensor belongs to two sections"
    for wanted in REQUIRED_SECTIONS[document["kind"]]:
        if not any(name == wanted or (wanted.endswith(".") and name.startswith(wanted)) for name in names):
            yield f"a {document['kind']} bundle needs a section '{wanted}'"
    yield from _image_checks(document)
    yield from _storage_checks(document["storage"])


def _image_checks(document: Mapping[str, Any]) -> Iterator[str]:
    images = next((record for record in document["sections"] if record["name"] == "images"), None)
    if images is None:
        return
    shape = images["tensors"].get("images.pixels", {}).get("shape", ())
    if len(shape) != 4:
        yield "'images.pixels' is missing or not (n, c, h, w)"
        return
    for record in document["sections"]:
        if record["kind"] == "labels":
            raw = [tensor.get("packed", tensor)["shape"] for tensor in record["tensors"].values()]
            if any(len(item) == 0 or item[0] != shape[0] for item in raw):
                yield f"section '{record['name']}' labels another number of images than the {shape[0]} stored"


def _storage_checks(storage: Mapping[str, Any]) -> Iterator[str]:
    parts = sum(storage["container"].values()) + sum(entry["stored"] for entry in storage["sections"].values())
    if parts != storage["total"]:
        yield f"'storage.total' is {storage['total']}, its parts add up to {parts}"


def _first(items: Iterator[str], count: int) -> Iterator[str]:
    for _index, item in zip(range(count), items, strict=False):
        yield item
