"""WebDataset: a tar file of samples, KEY.png (or .jpg) beside KEY.cls, as `ddlabel export` and others write them."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data._images import EXTENSIONS, Picture, decode
from ..errors import BundleError
from ..interchange import TAR_EXPORT
from ._exported import LABELS, left_out
from ._importer import Foreign
from ._pictures import stack
from ._sidecar import described
from ._sources import Sources, shown

__all__ = ["IMPORTER"]

MAGIC = (257, b"ustar")
"""Where a tar file says that it is one."""
MAX_MEMBERS = 5_000_000
MAX_CLASS_BYTES = 16
CLASS, MORE = "cls", "json"


@dataclass(frozen=True, kw_only=True)
class WebDataset:
    """One tar file, not compressed: of each sample the picture and its class number, in the order of the file.

    Of files of `ddlabel export` the labels in KEY.json too; of others they are left out. Members are not unpacked.
    """

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """One file that begins as tar files do."""
        place, magic = MAGIC
        return len(sources.paths) == 1 and sources.begins(sources.paths[0], place + len(magic))[place:] == magic

    def read(self, sources: Sources) -> Foreign:
        """All samples."""
        path = sources.only
        name = shown(path)
        export, samples = _samples(sources, path, name)
        pictures, labels = [], []
        for key, sample in samples.items():
            label = f"{name}, sample {ascii(key)[1:81]}"
            found = [suffix for suffix in sample if f".{suffix}" in EXTENSIONS]
            if len(found) != 1 or CLASS not in sample:
                raise BundleError(
                    f"{label}: {len(found)} pictures{'' if CLASS in sample else ' and no .cls'}, expected 1"
                )
            pictures.append(decode(Picture(label, sample[found[0]]), None))
            labels.append(_class(sample[CLASS], label))
        if not pictures:
            raise BundleError(f"{name}: no samples, expected KEY.png and KEY.cls")
        foreign = Foreign(
            name=name,
            images=stack(pictures, name),
            values=None,
            labels=torch.tensor(labels),
            said={"labels": f"{name}, its .cls"},
        )
        if export is not None:
            return described(foreign, export, sources, path, arrays=_arrays(samples, name))
        others = {suffix for sample in samples.values() for suffix in sample} - {CLASS}
        beside = [f"*.{suffix}" for suffix in others if f".{suffix}" not in EXTENSIONS]
        return dataclasses.replace(foreign, notes=left_out(beside, name))


def _samples(sources: Sources, path: Path, name: str) -> tuple[bytes | None, dict[str, dict[str, bytes]]]:
    """The description of an export, and the members of every sample by suffix, in the order of the file."""
    data = sources.read(path)
    export: bytes | None = None
    samples: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member, content in _members(archive, name):
                if member == TAR_EXPORT:
                    export = content
                    continue
                folder, _slash, base = member.rpartition("/")
                stem, _dot, suffix = base.partition(".")
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                if suffix.lower() in sample:
                    raise BundleError(f"{name}: two members {ascii(member)[:80]}")
                sample[suffix.lower()] = content
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        raise BundleError(f"{name}: not a readable tar file ({ascii(str(error))[1:80]})") from error
    return export, samples


def _members(archive: tarfile.TarFile, name: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of every plain file; folders are passed over, and what else there is refused."""
    for count, member in enumerate(archive):
        if count >= MAX_MEMBERS:
            raise BundleError(f"{name}: more than {MAX_MEMBERS} members")
        if member.isdir():
            continue
        stream = archive.extractfile(member) if member.isreg() and not member.issparse() else None
        if stream is None:
            raise BundleError(f"{name}: member {ascii(member.name)[:80]} is no plain file")
        content = stream.read()
        if len(content) != member.size:
            raise BundleError(f"{name}: truncated in member {ascii(member.name)[:80]}")
        yield member.name, content


def _class(content: bytes, label: str) -> int:
    text = content.strip()
    if len(text) > MAX_CLASS_BYTES or not text.isdigit() or int(text) >= 2**31:
        raise BundleError(f"{label}: class {ascii(content[:20])[1:]} is no number from 0")
    return int(text)


def _arrays(samples: Mapping[str, Mapping[str, bytes]], name: str) -> dict[str, Tensor]:
    """The labels in the samples' JSON, by name, images along the first axis."""
    rows: dict[str, list[np.ndarray[Any, Any]]] = {}
    for number, (key, sample) in enumerate(samples.items()):
        label = f"{name}, sample {ascii(key)[1:81]}"
        try:
            said = json.loads(sample[MORE]) if MORE in sample else {}
            found = {key: np.asarray(said[key], dtype=np.float64) for key in said if key.startswith(LABELS)}
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise BundleError(f"{label}: no readable labels") from error
        if (number and found.keys() != rows.keys()) or any(
            number and value.shape != rows[key][0].shape for key, value in found.items()
        ):
            raise BundleError(f"{label}: other labels than the first sample")
        for key, value in found.items():
            rows.setdefault(key, []).append(value)
    return {key: torch.from_numpy(np.stack(values)) for key, values in rows.items()}


IMPORTER = WebDataset
