"""What exports and imports agree on: names of files, arrays and columns, and the description that goes with them.

An export has one description, the sidecar: `ddset-export.json` in a folder, `FILE.ddset-export.json` beside a file, and
inside files that have a place for it (docs/exporting.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .errors import BundleError
from .schema import Anything, Array, Choice, Map, Nullable, Number, Record, Text, Truth, Whole

__all__ = [
    "DC_DATA",
    "DC_SCORES",
    "EXACT8",
    "FLOAT32",
    "MTT_IMAGES",
    "MTT_LABELS",
    "MTT_LR",
    "MTT_UNITS",
    "NPZ_CLASSES",
    "NPZ_EXPORT",
    "NPZ_IMAGES",
    "NPZ_IMAGES_FLOAT",
    "NPZ_LABELS",
    "NPZ_LR",
    "NPZ_SPACE",
    "NPZ_ZCA",
    "PARQUET_EXPORT",
    "PARQUET_FEATURES",
    "PARQUET_IMAGE",
    "PARQUET_LABEL",
    "SCHEMA",
    "SIDECAR",
    "SIDECAR_SPEC",
    "TAR_EXPORT",
    "VERSION",
    "VIEWABLE",
    "array_of_labels",
    "decode_sidecar",
    "domain_of_labels",
    "draws_of_labels",
    "encode_sidecar",
    "norm_of_labels",
    "sidecar_of",
    "view_ids_of_labels",
]

SIDECAR = "ddset-export.json"
SCHEMA = "ddlabel.export"
VERSION = 1
"""Of sidecars; readers refuse greater ones. Further keys do not change it."""

EXACT8, VIEWABLE, FLOAT32 = "exact8", "viewable", "float32"
"""Forms of images: the stored uint8 pixels; 8-bit pictures of float images; float32 in model-input space."""

NPZ_EXPORT = "ddset_export"
"""Array of one text: the sidecar without its list of files."""
NPZ_IMAGES = "images"
"""(n, h, w, c) uint8."""
NPZ_IMAGES_FLOAT = "images_float"
"""(n, c, h, w) float32 in model-input space."""
NPZ_LABELS, NPZ_CLASSES = "labels", "classes"
NPZ_SPACE = ("space", "mean", "std")
NPZ_ZCA = ("zca_mean", "zca_matrix", "zca_inverse", "zca_epsilon")
NPZ_LR = "student_lr"

PARQUET_EXPORT = "ddset-export"
"""Key of the schema's metadata."""
PARQUET_FEATURES = "huggingface"
"""The same, of Hugging Face's description of the columns."""
PARQUET_IMAGE, PARQUET_LABEL = "image", "label"

TAR_EXPORT = "__ddset-export__"
"""Member of a WebDataset, which its readers skip by the name."""

MTT_IMAGES, MTT_LABELS, MTT_LR = "images_best.pt", "labels_best.pt", "lr_best.pt"
MTT_UNITS = "images_zca_best.pt"
"""Images without their whitening, in [0, 1] units."""

DC_DATA, DC_SCORES = "data", "accs_all_exps"

_DIGEST = Text("[0-9a-f]{64}")
_NAME = Text(limit=1024)
_KIND = "[a-z0-9-]{1,64}"
_LABELS = Record(
    {},
    {
        "in": Text(limit=1024),
        "domain": Choice(("logit", "prob", "logprob", "unit", "feature")),
        "shape": Array(Whole(0, 2**40), 8),
        "parameters": Record({}, {"learned": Truth()}),
        "codec": Record({}, {"name": Text(limit=64)}),
        "teacher": Array(_DIGEST, 100_000),
        "refined": Nullable(Map(Anything())),
    },
)
SIDECAR_SPEC = Record(
    {
        "schema": Choice((SCHEMA,)),
        "version": Whole(1),
        "format": Text(limit=64),
        "data": Record({"name": _NAME, "flip": Truth()}),
        "space": Record(
            {"kind": Choice(("normalised", "zca")), "mean": Array(Number(), 3, 1), "std": Array(Number(), 3, 1)}
        ),
        "classes": Array(Record({"name": _NAME}, {"folder": _NAME}), 100_000, 2),
        "images": Record(
            {"count": Whole(1), "form": Nullable(Choice((EXACT8, VIEWABLE, FLOAT32)))},
            {"in": _NAME, "low": Number(), "high": Number()},
        ),
        "labels": Map(_LABELS, 64, _KIND),
        "student_lr": Nullable(Number()),
    },
    {
        "ddlabel": Text(limit=64),
        "source": Record({"content": _DIGEST, "images": _DIGEST, "history": Array(_NAME, 10_000)}),
        "lost": Array(Text(), 10_000),
        "files": Map(Record({"bytes": Whole(), "sha256": _DIGEST}), 10_000_000),
    },
)
"""What a sidecar must and may say; `files` is missing inside the files themselves."""


def array_of_labels(kind: str) -> str:
    """Name of the array or column of one kind's values."""
    return f"labels_{kind}"


def domain_of_labels(kind: str) -> str:
    """Name of the array with the domain of the values."""
    return f"labels_{kind}_domain"


def view_ids_of_labels(kind: str) -> str:
    """Name of the array or column that says which views are there."""
    return f"labels_{kind}_view_ids"


def draws_of_labels(kind: str, draw: str = "") -> str:
    """Name of the array or column of one draw of the augmentation; without it, how all of these names begin."""
    return f"labels_{kind}_draws_{draw}"


def norm_of_labels(kind: str, part: str) -> str:
    """Name of the array with the `mean` or `scale` of the norm that feature labels are compared under."""
    return f"labels_{kind}_norm_{part}"


def sidecar_of(path: str) -> str:
    """Where the sidecar of an export of one file lies: beside it, `FILE.ddset-export.json`."""
    return f"{path}.{SIDECAR}"


def encode_sidecar(document: Mapping[str, Any]) -> bytes:
    """The bytes of a sidecar: sorted keys, no NaN."""
    text = json.dumps(document, sort_keys=True, allow_nan=False, indent=1, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "surrogatepass")


def decode_sidecar(text: bytes | str, name: str) -> Mapping[str, Any]:
    """A sidecar, after every check.

    Args:
        text: of the file, or of the place inside one.
        name: of it, for messages.

    Raises:
        BundleError: no JSON, of a newer version, or not what a sidecar says.
    """
    try:
        decoded = text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text
        document: Any = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: no readable JSON") from error
    version = document.get("version") if isinstance(document, dict) else None
    if type(version) is int and version > VERSION and document.get("schema") == SCHEMA:
        raise BundleError(
            f"{name}: its 'version' is {version}, expected at most {VERSION}",
            field="version",
            hint="it was written by a newer ddlabel: upgrade, or export again with this one",
        )
    problem = next(iter(SIDECAR_SPEC.problems(document, "")), None)
    if problem is not None:
        raise BundleError(f"{name}: {problem}")
    if any(value <= 0 for value in document["space"]["std"]):
        raise BundleError(f"{name}: 'space.std' is not positive")
    found: Mapping[str, Any] = document
    return found
