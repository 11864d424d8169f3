"""What `ddlabel export` says of its files: the facts that other tools leave out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import BundleError
from ..schema import Array, Choice, Nullable, Number, Record, Text, Truth
from ._importer import Foreign
from ._sources import Sources, shown

__all__ = ["SIDECAR", "described", "read_sidecar", "with_sidecar"]

SIDECAR = "ddset-export.json"
MAX_BYTES = 256 * 2**20
SPEC = Record(
    {
        "schema": Choice(("ddlabel.export",)),
        "data": Record({"name": Text(limit=1024), "flip": Truth()}),
        "space": Record(
            {"kind": Choice(("normalised", "zca")), "mean": Array(Number(), 3, 1), "std": Array(Number(), 3, 1)}
        ),
        "classes": Array(Record({"name": Text(limit=1024)}), 100_000, 2),
        "images": Record({"form": Choice(("exact8", "viewable", "float32"))}, {"low": Number(), "high": Number()}),
        "labels": Record(
            {},
            {
                "soft": Record(
                    {"domain": Choice(("logit", "prob", "logprob", "unit"))},
                    {"parameters": Record({}, {"learned": Truth()})},
                )
            },
        ),
        "student_lr": Nullable(Number()),
    }
)
"""The part of an export's own description that is used here."""


def read_sidecar(text: bytes | str, name: str) -> Mapping[str, Any]:
    """A description, after every check.

    Raises:
        BundleError: it is none.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: no readable JSON") from error
    problem = next(iter(SPEC.problems(document, "")), None)
    if problem is not None:
        raise BundleError(f"{name}: {problem}")
    if any(value <= 0 for value in document["space"]["std"]):
        raise BundleError(f"{name}: 'space.std' is not positive")
    found: Mapping[str, Any] = document
    return found


def with_sidecar(foreign: Foreign, sources: Sources, path: Path) -> Foreign:
    """The same set with what a description in its folder, or beside its file, says.

    Raises:
        BundleError: a description that is damaged.
    """
    beside = path / SIDECAR if path.is_dir() else path.with_name(f"{path.name}.{SIDECAR}")
    if not beside.is_file():
        return foreign
    document = read_sidecar(bytes(sources.read(beside, limit=MAX_BYTES)), shown(beside))
    return described(foreign, document, shown(beside))


def described(foreign: Foreign, document: Mapping[str, Any], name: str) -> Foreign:
    """The same set with the facts of a description.

    Args:
        foreign: what the files hold.
        document: from `read_sidecar`.
        name: where it was, for the history.
    """
    space, soft = document["space"], document["labels"].get("soft", {})
    facts = {
        "name": document["data"]["name"],
        "flip": document["data"]["flip"],
        "space": space["kind"],
        "mean": tuple(space["mean"]),
        "std": tuple(space["std"]),
    }
    classes = tuple(entry["name"] for entry in document["classes"])
    domain = soft.get("domain")
    return dataclasses.replace(
        foreign,
        images=_unstretched(foreign.images, document["images"]),
        values="units" if _is_stretched(document["images"]) else foreign.values,
        stated={**foreign.stated, **facts},
        classes=foreign.classes or classes,
        by_name=True,
        domain=foreign.domain or ("logit" if domain == "logprob" else domain),
        learned=foreign.learned or bool(soft.get("parameters", {}).get("learned")),
        lr=foreign.lr if foreign.lr is not None else _step_size(document["student_lr"], name),
        said={**foreign.said, **dict.fromkeys((*facts, "classes"), name)},
    )


def _is_stretched(images: Mapping[str, Any]) -> bool:
    return images["form"] == "viewable" and (images.get("low", 0), images.get("high", 1)) != (0, 1)


def _unstretched(pixels: Tensor, images: Mapping[str, Any]) -> Tensor:
    """Pictures whose contrast was stretched, in [0, 1] units again."""
    if not _is_stretched(images):
        return pixels
    low, high = float(images.get("low", 0)), float(images.get("high", 1))
    return pixels.float() / 255 * (high - low) + low


def _step_size(value: Any, name: str) -> float | None:
    if value is not None and not value > 0:
        raise BundleError(f"{name}: 'student_lr' is {value}, expected a number above 0")
    return None if value is None else float(value)
