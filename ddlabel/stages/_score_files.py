"""Difficulty scores that were made before: in bundles, or as arrays in `.npy` files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bundle import Bundle, Section
from ..curriculum import filtered, parse_filter
from ..data._dataset import Dataset, Split
from ..data._stored_pixels import take
from ..difficulty import canonical_score, check_finite, unknown_score
from ..errors import BundleError, DataError, UsageError
from ..fsio import open_input
from ._npy import read_header, read_numbers
from ._scores import ROLE, Difficulty, identity

__all__ = [
    "filter_training",
    "find_scores",
    "holds_scores",
    "open_scores",
    "read_scores",
    "recorded_scores",
    "score_source",
]

NPY = b"\x93NUMPY"
HOW = "run 'ddlabel train-teacher --scores el2n' on this data"
SAME = "compute them on the same --data, --size and --validation"


def score_source(text: str) -> str | Path:
    """What `--scores` means: the name of a score to compute, or a file to read.

    A name of a score is never a file: write `./el2n` for a file of that name.

    Raises:
        UsageError: neither, with the nearest names of scores or files.
    """
    name = canonical_score(text)
    if name is not None:
        return name
    path = Path(text)
    if os.path.isfile(path):
        return path
    if os.path.exists(path):
        what = "the folder '{}'" if os.path.isdir(path) else "'{}', which is no regular file"
        raise UsageError(f"option 'scores' is {what.format(text[:200])}, expected a file", field="scores")
    if path.suffix or len(path.parts) > 1:
        near = difflib.get_close_matches(path.name, _siblings(path), n=1, cutoff=0.6)
        hint = f"did you mean '{path.with_name(near[0])}'?" if near else "scores by name are el2n, grand, loss, ..."
        raise UsageError(f"option 'scores' is '{text[:200]}', no such file", field="scores", hint=hint)
    raise unknown_score(text)


def open_scores(path: Path) -> Bundle | Path:
    """A bundle, opened, or the path of an `.npy` file, told by their first bytes.

    Raises:
        BundleError: neither.
        ResourceError: it may not be read.
    """
    with open_input(path) as file:
        if file.read(len(NPY)) == NPY:
            return path
    return Bundle.open(path)


def read_scores(source: Bundle | Path, dataset: Dataset, *, name: str | None = None) -> Difficulty:
    """Scores of a training split from a bundle, or from a bundle or `.npy` file by its path.

    An array is either float scores (n,) in the order of the training split, higher is harder; or an order (k, m) of
    whole numbers, PAD's published form: row c holds the training images of class c, easiest first, for classes of
    equal size. An image's score is then its place in its row. Nothing is unpickled.

    Args:
        source: where they are.
        dataset: what they must be scores of.
        name: of the score, where a bundle holds several.

    Raises:
        UsageError: a bundle with several scores and no name.
        BundleError: no scores, or of other images, naming both sides.
        DataError: an array of another type or size, of other classes, or with numbers that are not finite.
    """
    if isinstance(source, Path):
        source = open_scores(source)
    if isinstance(source, Bundle):
        return _from_bundle(source, dataset, name)
    array = _load(source, dataset)
    if array.ndim == 1:
        with np.errstate(over="ignore"):  # of long doubles
            kind, values = "file", _float32(torch.from_numpy(array.astype(np.float64)), str(source))
    else:
        kind, values = "order", _from_order(torch.from_numpy(array.astype(np.int64)), dataset, source)
    return Difficulty(kind, values, identity(dataset) | {"source": "npy"})


def find_scores(bundles: Sequence[Bundle], dataset: Dataset) -> Difficulty:
    """The scores that teacher bundles hold; the same ones in several bundles count once.

    Raises:
        UsageError: none, or several different ones.
        BundleError: of other images.
    """
    held = [bundle for bundle in bundles if _sections(bundle)]
    if not held:
        names = ", ".join(bundle.name for bundle in bundles)
        raise UsageError(
            f"--filter needs difficulty scores, {f'{names} holds none' if names else 'no --teacher was given'}",
            field="filter",
            hint="run 'ddlabel train-teacher --experts 0 --scores el2n' and give its bundle by --teacher",
        )
    first, *others = [read_scores(bundle, dataset) for bundle in held]
    for bundle, other in zip(held[1:], others, strict=True):
        if not torch.equal(first.values, other.values):
            raise UsageError(
                f"{held[0].name} and {bundle.name} hold different difficulty scores, expected one",
                field="filter",
                hint="give one --teacher with scores",
            )
    return first


def filter_training(text: str, bundles: Sequence[Bundle], dataset: Dataset, ipc: int) -> tuple[Dataset, Tensor]:
    """The data set with a part of its training split, by `--filter` (PAD, arXiv:2408.03360, section 4.3).

    Args:
        text: SIDE:RATIO.
        bundles: teachers, of which one holds scores.
        dataset: the whole.
        ipc: images per class that must be left.

    Returns:
        The filtered data set, and the places of its training images in the whole training split, (m,) int64.

    Raises:
        UsageError: a filter that cannot be read; no scores.
        BundleError: scores of other images.
        DataError: a class is left with fewer than ipc images.
    """
    side, ratio = parse_filter(text)
    scores, split = find_scores(bundles, dataset), dataset.train
    kept = filtered(split.labels, scores.values, side, ratio, classes=dataset.info.classes, ipc=ipc)
    return replace(dataset, train=Split(take(split.pixels, kept), split.labels[kept])), kept


def holds_scores(bundle: Bundle, name: str) -> bool:
    """Whether a bundle has difficulty scores of this name."""
    return f"scores.{name}" in {section.name for section in _sections(bundle)}


def recorded_scores(
    names: Iterable[str], bundles: Sequence[Bundle], dataset: Dataset, kept: Tensor | None = None
) -> dict[str, Tensor]:
    """Those of the named difficulty scores that teacher bundles hold, (n,) float32 each.

    Args:
        names: of scores.
        bundles: teachers.
        dataset: what they must be scores of.
        kept: the training images whose scores are wanted, (m,) int64; None for all.

    Raises:
        UsageError: several bundles hold different scores of one name.
        BundleError: of other images.
    """
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        held = [bundle for bundle in bundles if holds_scores(bundle, name)]
        values = [read_scores(bundle, dataset, name=name).values for bundle in held]
        for bundle, other in zip(held[1:], values[1:], strict=True):
            if not torch.equal(values[0], other):
                raise UsageError(
                    f"{held[0].name} and {bundle.name} hold different difficulty scores '{name}', expected one",
                    field="teacher",
                    hint="give one --teacher with these scores",
                )
        found |= {name: values[0] if kept is None else values[0][kept]} if values else {}
    return found


def _sections(bundle: Bundle) -> list[Section]:
    return [section for section in bundle.sections("scores") if section.role == ROLE]


def _from_bundle(bundle: Bundle, dataset: Dataset, name: str | None) -> Difficulty:
    by_name = {section.name.removeprefix("scores."): section for section in _sections(bundle)}
    known = ", ".join(by_name) or "none"
    if not by_name or name not in {None, *by_name}:
        wanted = f"difficulty scores '{name}'" if name else "difficulty scores"
        raise BundleError(f"{bundle.name}: no {wanted} (it holds: {known})", field="scores", hint=HOW)
    if name is None and len(by_name) > 1:
        raise UsageError(
            f"{bundle.name} holds the difficulty scores {known}, expected one",
            field="scores",
            hint="keep one section in the bundle",
        )
    chosen = name or next(iter(by_name))
    section = bundle.section(by_name[chosen].name)
    _check_identity(bundle, section, dataset)
    values = bundle.tensor(section.name) if section.name in section.tensors else torch.empty(0)
    if tuple(values.shape) != (len(dataset.train),) or not values.is_floating_point():
        raise BundleError(
            f"{bundle.name}: '{section.name}' is {values.dtype} {list(values.shape)}, expected floats "
            f"[{len(dataset.train)}], one per training image",
            field=section.name,
        )
    return Difficulty(chosen, _float32(values, f"{bundle.name}: '{section.name}'"), section.parameters)


def _check_identity(bundle: Bundle, section: Section, dataset: Dataset) -> None:
    theirs = section.parameters
    ours = identity(dataset, like=theirs.get("split", ""))
    words = {
        "fingerprint": "training data",
        "validation": "held-out share",
        "images": "training images",
        "split": "order of training images",
    }
    for key, word in words.items():
        if key not in theirs:
            raise BundleError(
                f"{bundle.name}: section '{section.name}' does not say its {word} ('{key}')", field=section.name
            )
        if theirs[key] != ours[key]:
            raise BundleError(
                f"{bundle.name}: '{section.name}' has {word} {_short(theirs[key])}, the data set "
                f"'{dataset.info.name}' has {_short(ours[key])}",
                field=key,
                hint=SAME,
            )


def _load(path: Path, dataset: Dataset) -> np.ndarray[Any, Any]:
    """The array of an `.npy` file, read once its header is known to fit file and data; nothing is unpickled."""
    with open_input(path) as file:
        header = read_header(file, path)
        shape, dtype = header.shape, header.dtype
        if (len(shape), dtype.kind) not in {(1, "f"), (2, "i"), (2, "u")}:
            raise DataError(
                f"{path}: {str(dtype)[:80]} {list(shape)}, expected float scores [n], or an order of whole numbers "
                f"[classes, images], easiest first",
                field="scores",
            )
        (_check_count if len(shape) == 1 else _check_classes)(shape, dataset, path)
        return read_numbers(file, header, path)


def _check_count(shape: tuple[int, ...], dataset: Dataset, path: Path) -> None:
    if shape != (len(dataset.train),):
        raise DataError(
            f"{path}: {shape[0]} scores, the data set '{dataset.info.name}' has {len(dataset.train)} training images",
            field="scores",
            hint="--validation 0 keeps all images in the training split",
        )


def _check_classes(shape: tuple[int, ...], dataset: Dataset, path: Path) -> None:
    classes = len(dataset.info.classes)
    counts = torch.bincount(dataset.train.labels, minlength=classes).tolist()
    if shape[0] != classes or any(count != shape[1] for count in counts):
        sizes = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        raise DataError(
            f"{path}: an order of {shape[0]} classes of {shape[1]} images, the data '{dataset.info.name}' has "
            f"{classes} classes of {sizes} training images",
            field="scores",
            hint="--validation 0 keeps all images in the training split; for unequal classes give scores [n]",
        )


def _float32(values: Tensor, source: str) -> Tensor:
    """Refuse what orders nothing, and what float32 cannot hold, as two things."""
    check_finite(values, source)
    narrow = values.float()
    beyond = (~torch.isfinite(narrow)).nonzero().flatten()
    if len(beyond):
        index = int(beyond[0])
        raise DataError(
            f"{source}: the score of image {index} is {float(values[index])}, beyond float32 "
            f"(at most {torch.finfo(torch.float32).max:.3g})",
            field="scores",
        )
    return narrow


def _from_order(rows: Tensor, dataset: Dataset, path: Path) -> Tensor:
    """The place of every image in the row of its class, (n,) float32."""
    labels = dataset.train.labels
    values = torch.empty(len(labels))
    for label, row in enumerate(rows):
        members = (labels == label).nonzero().flatten()
        if not torch.equal(row.sort().values, members):
            raise DataError(
                f"{path}: row {label} is not the training images of class '{dataset.info.classes[label]}', each once",
                field="scores",
                hint="rows are in the order of the classes, entries are places in the training split, easiest first",
            )
        values[row] = torch.arange(len(row), dtype=values.dtype)
    return values


def _siblings(path: Path) -> list[str]:
    try:
        return sorted(item.name for item in path.parent.iterdir())
    except (OSError, ValueError):
        return []


def _short(value: Any) -> str:
    return str(value)[:12]
