"""MTT's folder of `images_*.pt`, `labels_*.pt` and `lr_*.pt`, also written by FTD, DATM and PAD (arXiv:2203.11932)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import BundleError, UsageError
from ..options import opt
from ._checks import check_step_size, distributions, images_of, labels_of
from ._importer import Foreign
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
        twin = _twin(sources, own.get("images_zca"), images) if not shown_only else None
        labels, soft = labels_of(read_torch(sources, own["labels"]), shown(own["labels"]))
        step = own.get("lr")
        said = {"labels": shown(own["labels"])} | ({"lr": shown(step)} if step else {})
        is_logit = soft is not None and not distributions(soft)
        foreign = Foreign(
            name=name,
            images=images,
            values="units" if shown_only else "space",
            labels=labels,
            soft=soft,
            domain="logit" if is_logit else None,
            learned=is_logit,
            lr=None if step is None else check_step_size(read_torch(sources, step), shown(step)),
            twin=twin,
            said=said,
            metrics={"iteration": iteration},
        )
        return with_sidecar(foreign, sources, main.parent)

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


def _twin(sources: Sources, path: Path | None, images: Tensor) -> Tensor | None:
    """The same images in [0, 1] units, when the files show them."""
    if path is None:
        return None
    twin = images_of(read_torch(sources, path), shown(path))
    if twin.shape != images.shape or not twin.is_floating_point():
        raise BundleError(
            f"{shown(path)}: images of shape {tuple(twin.shape)}, those of its iteration have {tuple(images.shape)}"
        )
    return twin


def _order(number: str) -> tuple[int, str]:
    return (int(number), "") if number.isdecimal() else (2**62, number)


IMPORTER = Mtt
