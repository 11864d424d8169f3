"""What `ddlabel export` says of its files: the facts that other tools leave out, and the digests to check them by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BundleError
from ..interchange import SIDECAR, VIEWABLE, decode_sidecar, sidecar_of
from ._checks import check_step_size
from ._exported import exported_labels
from ._importer import Foreign
from ._sources import Sources, entries_of, shown

__all__ = ["SIDECAR", "described", "with_sidecar"]

MAX_BYTES = 256 * 2**20
MAX_CONTRAST = 1e6
"""Largest value, in [0, 1] units, that pictures were stretched from."""


def with_sidecar(
    foreign: Foreign,
    sources: Sources,
    path: Path,
    *,
    arrays: Mapping[str, Tensor] | None = None,
    lr: str = "take",
) -> Foreign:
    """The same set with what a description in its folder, or beside its file, says.

    Args:
        foreign: what the files hold.
        sources: all of them are read.
        path: of the folder or file.
        arrays: labels beside the hard ones, by where they are.
        lr: drop keeps the step size that the description says out too.

    Raises:
        BundleError: a description that is damaged, or of other files than these.
    """
    found = _beside(sources, path)
    return foreign if found is None else _with(foreign, *found, arrays or {}, lr)


def described(
    foreign: Foreign,
    text: bytes | str,
    sources: Sources,
    path: Path,
    *,
    arrays: Mapping[str, Tensor],
    lr: str = "take",
) -> Foreign:
    """The same set with what a description inside its file says; one beside the file must have its digest.

    Raises:
        BundleError: as `with_sidecar`.
    """
    _beside(sources, path)
    name = shown(path)
    return _with(foreign, decode_sidecar(text, name), name, arrays, lr)


def _beside(sources: Sources, path: Path) -> tuple[Mapping[str, Any], str] | None:
    """The description in a folder or beside a file, once the files are those that it lists; and its name."""
    beside = path / SIDECAR if path.is_dir() else Path(sidecar_of(str(path)))
    if not beside.is_file():
        return None
    entered, name = dict(sources.entered), shown(beside)
    document = decode_sidecar(bytes(sources.read(beside, limit=MAX_BYTES)), name)
    files = document.get("files")
    if files is None:
        return document, name
    if path.is_dir():
        present = {*entered} | {entry.name for entry in entries_of(path)}
    else:
        files = {shown(path): entry for entry in files.values()} if len(files) == 1 else files  # it may be renamed
        entered = {shown(path): entered[shown(path)]} if shown(path) in entered else entered
        present = {*entered}
    for kind, odd in (("missing", files.keys() - present), ("not of this export", entered.keys() - files.keys())):
        if odd:
            raise _altered(name, f"{min(odd)!a:.80} is {kind}")
    for file, (size, digest) in entered.items():
        if (size, digest) != (files[file]["bytes"], files[file]["sha256"]):
            raise _altered(name, f"{file!a:.80} was changed after it was exported")
    return document, name


def _altered(name: str, what: str) -> BundleError:
    return BundleError(
        f"{name}: {what}",
        hint="export it again; to import files that were altered on purpose, move the description away",
    )


def _with(foreign: Foreign, document: Mapping[str, Any], name: str, arrays: Mapping[str, Tensor], lr: str) -> Foreign:
    """The same set with the facts of a description, and its labels."""
    _check_counts(foreign, document, name)
    space, images = document["space"], document["images"]
    sizes = {key: len(space[key]) for key in ("mean", "std")}
    if set(sizes.values()) != {foreign.images.shape[1]}:
        raise BundleError(
            f"{name}: {sizes['mean']} means and {sizes['std']} standard deviations, its images have "
            f"{foreign.images.shape[1]} channels"
        )
    facts = {
        "name": document["data"]["name"],
        "flip": document["data"]["flip"],
        "space": space["kind"],
        "mean": tuple(space["mean"]),
        "std": tuple(space["std"]),
    }
    said = {**foreign.said, **dict.fromkeys((*facts, "classes"), name)}
    exported, notes = exported_labels(document["labels"], arrays, len(foreign.images), name)
    labels, soft = foreign.labels, next((each for each in exported if each.kind == "soft"), None)
    if soft is not None:
        said["domain"] = name
    if labels is None and foreign.soft is not None and soft is not None:
        labels = foreign.soft.argmax(dim=1)
        said["labels"] = f"{said.get('labels', 'file')}: largest soft label"
    step = foreign.lr
    if step is None and lr != "drop":
        step = _step_size(document["student_lr"], name)
        said |= {"lr": name} if step is not None else {}
    return dataclasses.replace(
        foreign,
        images=_unstretched(foreign.images, images, name),
        values="units" if _is_stretched(images) else foreign.values,
        labels=labels,
        soft=None if soft is not None else foreign.soft,
        domain=soft.domain if soft is not None else foreign.domain,
        learned=bool(soft.parameters.get("learned")) if soft is not None else foreign.learned,
        stated={**foreign.stated, **facts},
        classes=foreign.classes or tuple(entry["name"] for entry in document["classes"]),
        by_name=True,
        lr=step,
        said=said,
        exported=exported,
        export=_origin(document),
        notes=(*foreign.notes, *notes),
    )


def _check_counts(foreign: Foreign, document: Mapping[str, Any], name: str) -> None:
    """As many images as it says, of each class where they are class numbers."""
    said, have = document["images"]["count"], len(foreign.images)
    if said != have:
        raise _altered(name, f"it is of {said} images, there are {have}")
    counts = [entry.get("images") for entry in document["classes"]]
    if foreign.labels is None or foreign.classes is not None or not all(type(count) is int for count in counts):
        return
    found = torch.bincount(foreign.labels, minlength=len(counts)).tolist()
    if found != counts and len(found) == len(counts):
        index = next(index for index, count in enumerate(counts) if found[index] != count)
        raise _altered(name, f"it says {counts[index]} images of class {index}, there are {found[index]}")


def _origin(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the history keeps: the bundle that was exported, by what, and how its labels were stored and made."""
    kept = ("codec", "teacher", "refined")
    labels = {kind: {key: entry[key] for key in kept if key in entry} for kind, entry in document["labels"].items()}
    return {
        "format": document["format"],
        "ddlabel": document.get("ddlabel"),
        "source": document.get("source"),
        "labels": {kind: entry for kind, entry in labels.items() if entry},
    }


def _is_stretched(images: Mapping[str, Any]) -> bool:
    return images["form"] == VIEWABLE and (images.get("low", 0), images.get("high", 1)) != (0, 1)


def _unstretched(pixels: Tensor, images: Mapping[str, Any], name: str) -> Tensor:
    """Pictures whose contrast was stretched, in [0, 1] units again.

    Raises:
        BundleError: an impossible range.
    """
    if not _is_stretched(images):
        return pixels
    low, high = float(images.get("low", 0)), float(images.get("high", 1))
    if not (low < high and max(-low, high) <= MAX_CONTRAST):
        raise BundleError(
            f"{name}: pictures from {low:g} to {high:g}, expected 'images.low' below 'images.high' and both within "
            f"{MAX_CONTRAST:g}"
        )
    return pixels.float() / 255 * (high - low) + low


def _step_size(value: Any, name: str) -> float | None:
    return None if value is None else check_step_size(value, f"{name}: 'student_lr'")
