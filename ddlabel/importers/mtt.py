"""MTT's folder of `images_*.pt`, `labels_*.pt` and `lr_*.pt`, also written by FTD, DATM and PAD (arXiv:2203.11932)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import BundleError, UsageError
from ..options import opt
from ._checks import DROP, distributions, images_of, labels_of, step_size
from ._importer import Foreign, Twin
from ._sidecar import with_sidecar
from ._sources import Sources, entries_of, shown
from ._torch_file import read_torch

__all__ = ["IMPORTER"]

NAME = re.compile(r"(images_zca|images|labels|lr)_([A-Za-z0-9]{1,16})\.pt")
LAST = "best"


@dataclass(frozen=True, kw_only=True)
class Mtt:
    """Images as the nets were fed, classes or learned logits, and maybe a learned step size, of one iteration.

    `images_*` is in the input space; `images_zca_*` shows the same images in [0, 1] units, and is read as such when it
    is the file given. Labels of type float and shape (n, k) are the logits that DATM and PAD learned.
    """

    iteration: str | None = opt(
        None, "which iteration: a number or 'best'; auto is that of the file given, else best, else the only one"
    )
    lr: str = opt("take", "learned step size of the files: take or drop", choices=DROP)

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """By the names of the files, or of those in the one folder."""
        paths = sources.paths
        names = [entry.name for entry in entries_of(paths[0])] if len(paths) == 1 and paths[0].is_dir() else None
        found = [NAME.fullmatch(name) for name in (names if names is not None else [path.name for path in paths])]
        kinds = {match[1] for match in found if match}
        return bool(kinds & {"images", "images_zca"}) and (names is not None or all(found))

    def read(self, sources: Sources) -> Foreign:
        """The files of one iteration, found by their names beside the one that was given."""
        files, given = _files(sources)
        iteration = self._iteration(files, given)
        own = {kind: path for (kind, number), path in files.items() if number == iteration}
        shown_only = [kind for kind, number in given if kind.startswith("images")] == ["images_zca"]
        main = own.get("images_zca" if shown_only else "images")
        if main is None or "labels" not in own:
            missing = "images" if main is None else "labels"
            raise BundleError(
                f"no '{missing}_{iteration}.pt' beside the files given", hint="name another one with --set iteration="
            )
        name = shown(main)
        images = images_of(read_torch(sources, main), name)
        labels, soft = labels_of(read_torch(sources, own["labels"]), shown(own["labels"]))
        lr, notes = self._step_size(sources, own.get("lr"))
        learned = soft is not None and not distributions(soft)
        is_logit = soft is not None and learned and bool((soft < 0).any())
        said = {"labels": shown(own["labels"]), "domain": "format (DATM, PAD)"}
        said |= {"lr": shown(own["lr"])} if lr is not None else {}
        foreign = Foreign(
            name=name,
            images=images,
            values="units" if shown_only else "space",
            labels=labels,
            soft=soft,
            domain="logit" if is_logit else None,
            learned=learned,
            lr=lr,
            twin=None if shown_only else _twin(sources, files, iteration, images),
            said=said if is_logit else _without(said, "domain"),
            metrics={"iteration": iteration},
            notes=notes,
        )
        arrays = {} if soft is None else {own["labels"].name: soft}
        foreign = with_sidecar(foreign, sources, main.parent, arrays=arrays, lr=self.lr)
        return _for_whitened(foreign) if shown_only else foreign

    def _step_size(self, sources: Sources, path: Path | None) -> tuple[float | None, tuple[str, ...]]:
        """What the file of a learned step size says; it is not opened where it is to be dropped."""
        if path is None:
            return None, ()
        return step_size(self.lr if self.lr == "drop" else read_torch(sources, path), shown(path), self.lr)

    def _iteration(self, files: dict[tuple[str, str], Path], given: list[tuple[str, str]]) -> str:
        numbers = sorted({number for kind, number in files if kind.startswith("images")}, key=_order)
        named = {number for _kind, number in given}
        if len(named) > 1:
            raise UsageError(
                f"files of iterations {', '.join(sorted(named, key=_order))} given, expected one iteration"
            )
        if self.iteration is not None:
            known = sorted(named) or numbers
            if self.iteration not in known:
                raise UsageError(
                    f"no images of iteration '{self.iteration[:20]}', the files have {', '.join(known)}",
                    field="iteration",
                )
            return self.iteration
        if named or LAST in numbers or len(numbers) == 1:
            return next(iter(named)) if named else LAST if LAST in numbers else numbers[0]
        raise UsageError(
            f"images of {len(numbers)} iterations and none called '{LAST}' ({', '.join(numbers[:12])})",
            field="iteration",
            hint="choose one with --set iteration=N",
        )


def _files(sources: Sources) -> tuple[dict[tuple[str, str], Path], list[tuple[str, str]]]:
    """All files by kind and iteration, and those that were given by name."""
    files: dict[tuple[str, str], Path] = {}
    given: list[tuple[str, str]] = []
    for path in sources.paths:
        folder = path if path.is_dir() else path.parent
        for entry in entries_of(folder):
            match = NAME.fullmatch(entry.name)
            if match:
                files.setdefault((match[1], match[2]), folder / entry.name)
        if path.is_dir():
            continue
        match = NAME.fullmatch(path.name)
        if match is None:
            raise BundleError(
                f"{shown(path)}: not called images_*.pt, labels_*.pt or lr_*.pt as MTT calls its files",
                hint="rename it, or give --format",
            )
        files[match[1], match[2]] = path
        given.append((match[1], match[2]))
    if not any(kind.startswith("images") for kind, _number in files):
        raise BundleError("no file called images_*.pt among the files given")
    return files, given


def _for_whitened(foreign: Foreign) -> Foreign:
    """The un-whitened images of a set that was learned whitened: what says another space is of the other images."""
    learned = [noun for noun, there in (("labels", foreign.learned), ("step size", foreign.lr is not None)) if there]
    said = dict(foreign.said)
    for fact in [fact for fact, noun in (("domain", "labels"), ("lr", "step size")) if noun in learned]:
        said[fact] = f"{said.get(fact, 'file')}, learned for whitened inputs"
    note = f"{foreign.name}: its {' and '.join(learned)} were learned for whitened inputs, these are not whitened"
    return dataclasses.replace(
        foreign,
        stated=_without(foreign.stated, "space"),
        said=_without(said, "space"),
        notes=(*foreign.notes, *([note] if learned else [])),
    )


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _twin(sources: Sources, files: Mapping[tuple[str, str], Path], iteration: str, images: Tensor) -> Twin | None:
    """The same images in [0, 1] units where the files show them, else those of the last other iteration that has both.

    Which whitening made the files is the same for all iterations.
    """
    others = sorted({number for _kind, number in files} - {iteration}, key=_order, reverse=True)
    for number in (iteration, *others):
        path, whitened = files.get(("images_zca", number)), files.get(("images", number))
        if path is None or whitened is None:
            continue
        own = images if number == iteration else images_of(read_torch(sources, whitened), shown(whitened))
        units = images_of(read_torch(sources, path), shown(path))
        if units.shape != own.shape or not units.is_floating_point():
            raise BundleError(
                f"{shown(path)}: images of shape {tuple(units.shape)}, those of its iteration have {tuple(own.shape)}"
            )
        return Twin(units, None if number == iteration else own, number)
    return None


def _order(number: str) -> tuple[int, str]:
    return (int(number), "") if number.isdecimal() else (2**62, number)


IMPORTER = Mtt
