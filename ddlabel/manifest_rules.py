"""The rules of the manifest: one table of fields and types, and what must hold between fields.

`docs/format.md` says the same in prose; `docs/manifest.schema.json` is generated from the table.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import _plugins
from .digests import images_digest
from .header import DTYPE_BITS, MANIFEST, MAX_TENSORS, is_impossible
from .schema import Anything, Array, Choice, Map, Nullable, Number, Record, Text, Truth, Whole

__all__ = [
    "FORMAT",
    "MANIFEST_SPEC",
    "MAX_HISTORY",
    "MAX_MANIFEST_BYTES",
    "SECTION_ORDER",
    "is_padding_name",
    "json_schema",
    "required_features",
    "section_features",
    "storage_problems",
    "structure_problems",
    "understands",
]

FORMAT = (1, 0)
"""Major and minor version written. The major number changes when older readers must refuse."""
KINDS = ("distilled", "teacher", "partial")
MAX_MANIFEST_BYTES = 64 * 2**20
"""Largest manifest, plain and compressed."""
MAX_SECTIONS = 65_536
MAX_HISTORY = 4_096
MAX_EVALUATIONS = 4_096
MAX_CLASSES = 100_000
MAX_REQUIRES = 256
MAX_PACKED_BYTES = 4 * 2**30
"""Largest tensor behind a zstd stream, because it is unpacked in memory."""

SECTION_ORDER = (
    "images",
    "labels.hard",
    "labels",
    "transform",
    "student",
    "scores",
    "",
    "teacher",
    "trajectory",
    "state",
)
"""Where sections stand in the file: small and needed first, so that a partial download is of use; "" is unknown."""

_DIGEST = Text("[0-9a-f]{64}")
_DTYPE = Text("[A-Z0-9_]{2,16}")
_NAME = "[a-z0-9._-]{1,255}"
_WORD = Text("[a-z0-9-]{1,64}")
_SHAPE = Array(Whole(), 8)
_PACKED = Record(
    {
        "method": _WORD,
        "shuffle": Whole(1, 8),
        "length": Whole(),
        "dtype": _DTYPE,
        "shape": _SHAPE,
        "bytes": Whole(),
        "sha256": _DIGEST,
    },
    {"level": Whole(1, 22)},
)
_TENSOR = Record(
    {"dtype": _DTYPE, "shape": _SHAPE, "bytes": Whole(), "sha256": _DIGEST},
    {"packed": _PACKED},
)
_SECTION = Record(
    {
        "name": Text(_NAME),
        "kind": _WORD,
        "parameters": Map(Anything()),
        "tensors": Map(_TENSOR, MAX_TENSORS, _NAME),
    },
    {
        "role": _WORD,
        "codec": Record({"name": _WORD, "parameters": Map(Anything())}),
        "domain": _WORD,
        "views": Whole(1, 2**31),
        "range": _WORD,
        "of": _DIGEST,
        "teacher": Array(_DIGEST, 100_000),
        "fidelity": Map(Nullable(Number())),
        "refined": Map(Anything()),
        "stale": Truth(),
        "zip_bytes": Whole(),
    },
)
_SPACE = Record(
    {"kind": _WORD, "mean": Array(Number(), 4096), "std": Array(Number(), 4096)},
    {"epsilon": Number(), "section": Text()},
)
_DATA = Record(
    {
        "name": Text(),
        "classes": Array(Text(limit=1024), MAX_CLASSES, 1),
        "channels": Whole(1, 4096),
        "height": Whole(1, 2**16),
        "width": Whole(1, 2**16),
        "train_images": Nullable(Whole()),
        "fingerprint": Nullable(_DIGEST),
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
_BYTES = Record({"raw": Whole(), "stored": Whole()})
_STORAGE = Record(
    {
        "total": Whole(),
        "container": Record({"header": Whole(), "manifest": Whole(), "padding": Whole(), "unlisted": Whole()}),
        "sections": Map(Record({"kind": Text(), "raw": Whole(), "stored": Whole()})),
        "images": _BYTES,
        "labels": Map(_BYTES),
        "augmentation_state": Whole(),
        "overhead": Record({"raw": Nullable(Number()), "stored": Nullable(Number()), "ladd_zip": Nullable(Number())}),
        "bits_per_view": Map(Number()),
        "equivalent_ipc": Nullable(Number()),
    }
)
MANIFEST_SPEC = Record(
    {
        "format": Array(Whole(), 2, 2),
        "kind": Choice(KINDS),
        "requires": Array(Text("[a-z0-9._-]{1,128}"), MAX_REQUIRES),
        "data": Nullable(_DATA),
        "sections": Array(_SECTION, MAX_SECTIONS),
        "history": Array(_HISTORY, MAX_HISTORY, 1),
        "evaluations": Array(Map(Anything()), MAX_EVALUATIONS),
        "storage": _STORAGE,
    }
)
"""Every field of the manifest and its type; further keys are kept."""

REQUIRED_SECTIONS = {
    "distilled": ("images", "labels.hard"),
    "teacher": ("teacher.",),
    "partial": ("state.",),
}
"""What each kind must hold at least: section names, or prefixes ending with a dot."""

_PLAIN = {
    "codec": {"f32", "f16"},
    "labels": {"hard", "soft"},
    "domain": {"logit", "prob", "logprob", "unit"},
    "range": {"uint8", "float32"},
    "space": {"normalised"},
    "packed": {"zstd"},
}
"""What every reader of format 1.0 knows; anything else is named in `requires`."""
_KNOWN = {"labels.refined", "space.zca", "domain.feature"}
_ROOMS = {"codec": "codecs", "labels": "labels"}


def json_schema() -> dict[str, Any]:
    """The table as JSON Schema, with the sections that each kind must hold."""
    needs = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"properties": {"sections": {"allOf": [_holding(name) for name in names]}}},
        }
        for kind, names in REQUIRED_SECTIONS.items()
    ]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Manifest of a .ddset bundle, format {FORMAT[0]}.{FORMAT[1]}",
    }
    return head | MANIFEST_SPEC.json_schema() | {"allOf": needs}


def section_features(record: Mapping[str, Any]) -> set[str]:
    """What a reader must know to use one section, beyond what every reader knows."""
    said = [
        ("codec", (record.get("codec") or {}).get("name")),
        ("labels", record.get("role") if record["kind"] == "labels" else None),
        ("labels", "refined" if "refined" in record else None),
        ("domain", record.get("domain")),
        ("range", record.get("range")),
        *(("packed", tensor["packed"]["method"]) for tensor in record["tensors"].values() if "packed" in tensor),
    ]
    return {f"{room}.{word}" for room, word in said if word is not None and word not in _PLAIN[room]}


def required_features(sections: Sequence[Mapping[str, Any]], data: Mapping[str, Any] | None) -> set[str]:
    """What a reader must know to use all sections."""
    features: set[str] = set().union(*map(section_features, sections))
    if data is not None and data["space"]["kind"] not in _PLAIN["space"]:
        features.add(f"space.{data['space']['kind']}")
    return features


def understands(feature: str) -> bool:
    """Whether this installation can use a feature; codecs and label kinds are plugins."""
    head, _, name = feature.partition(".")
    if feature in _KNOWN or name in _PLAIN.get(head, ()):
        return True
    return head in _ROOMS and name in _plugins.names(_ROOMS[head])


def is_padding_name(name: str) -> bool:
    """Whether a tensor of that name holds zeros between two others."""
    return re.fullmatch(r"pad\.[0-9]+", name) is not None


def structure_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between fields of a well-typed manifest; `storage` is not looked at."""
    sections = document["sections"]
    tensors = [name for record in sections for name in record["tensors"]]
    for what, names in (("sections", [record["name"] for record in sections]), ("tensors", tensors)):
        yield from (f"two {what} are called '{name}'" for name, count in Counter(names).items() if count > 1)
    for name in tensors:
        if name in {MANIFEST, "__metadata__"} or name.startswith("pad."):
            yield f"a tensor is called '{name}', which the container keeps for itself"
    for wanted in REQUIRED_SECTIONS[document["kind"]]:
        if not any(_matches(wanted, record["name"]) for record in sections):
            yield f"a {document['kind']} bundle needs a section '{wanted}'"
    yield from _packed_problems(sections)
    yield from _image_problems(sections)


def storage_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Whether the storage report agrees with the section table and adds up."""
    storage = document["storage"]
    spent = {
        record["name"]: sum(item["bytes"] for item in record["tensors"].values()) for record in document["sections"]
    }
    reported = {name: entry["stored"] for name, entry in storage["sections"].items()}
    if spent != reported:
        wrong = sorted(name for name in spent.keys() | reported.keys() if spent.get(name) != reported.get(name))[0]
        yield f"'storage.sections.{wrong}' says {reported.get(wrong)} bytes, its tensors have {spent.get(wrong)}"
    container = sum(size for size in storage["container"].values() if type(size) is int)
    if container + sum(reported.values()) != storage["total"]:
        yield f"'storage.total' is {storage['total']}, its parts add up to {container + sum(reported.values())}"


def _packed_problems(sections: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for record in sections:
        for name, tensor in record["tensors"].items():
            packed = tensor.get("packed")
            if packed is None or packed["method"] != "zstd":
                continue
            if packed["dtype"] not in DTYPE_BITS or is_impossible(packed["dtype"], packed["shape"]):
                yield f"tensor '{name}' unpacks to an impossible {packed['dtype']} of shape {tuple(packed['shape'])}"
                continue
            bits = math.prod(packed["shape"]) * DTYPE_BITS[packed["dtype"]]
            if bits != 8 * packed["bytes"] or packed["bytes"] > MAX_PACKED_BYTES:
                yield f"tensor '{name}' unpacks to {packed['bytes']} bytes, its shape and dtype need {bits / 8:g}"
            if tensor["dtype"] != "U8" or len(tensor["shape"]) != 1 or packed["length"] > tensor["bytes"]:
                yield f"tensor '{name}' is packed, expected a U8 stream of at least {packed['length']} bytes"


def _image_problems(sections: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Labels speak of the stored images: as many of them, and of these."""
    images = next((record for record in sections if record["name"] == "images"), None)
    if images is None:
        return
    shape = images["tensors"].get("images.pixels", {}).get("shape", ())
    if len(shape) != 4:
        yield "section 'images' holds no tensor 'images.pixels' of shape (n, c, h, w)"
        return
    digest = images_digest(images["tensors"])
    for record in sections:
        if record.get("of", digest) != digest and not record.get("stale"):
            yield f"section '{record['name']}' was made for other images, expected it to be marked stale"
        if record["kind"] == "labels" and all(map(understands, section_features(record))):
            yield from _label_problems(record, shape[0])


def _label_problems(record: Mapping[str, Any], images: int) -> Iterator[str]:
    """Tensors of a label section start with the image axis; with a codec, the view axis is next.

    Parts of a codec whose names start with `image_` belong to an image, those that start with `shared` to the set.
    Stored draws, `augmentation`, are of all views, also where only some are labelled.
    """
    prefix = f"{record['name']}."
    for name, tensor in record["tensors"].items():
        part = name.removeprefix(prefix) if "codec" in record else ""
        if part.startswith("shared"):
            continue
        views = record.get("views", 1)
        of_views = "codec" in record and not part.startswith(("image_", "augmentation"))
        wanted = [images, views] if of_views else [images]
        shape = tensor.get("packed", tensor)["shape"]
        if shape[: len(wanted)] != wanted:
            yield f"tensor '{name}' has shape {tuple(shape)}, expected {images} images of {views} views"


def _matches(wanted: str, name: str) -> bool:
    return name.startswith(wanted) if wanted.endswith(".") else name == wanted


def _holding(name: str) -> dict[str, Any]:
    pattern = "^" + re.escape(name) + ("" if name.endswith(".") else "$")
    return {"contains": {"properties": {"name": {"pattern": pattern}}, "required": ["name"]}}
