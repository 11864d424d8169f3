"""The classes of an import: their names, and the place of each class of the files among them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BundleError, UsageError
from ..importers._importer import Foreign

__all__ = ["class_names", "class_order"]

MAX_CLASSES, MAX_NAME, MAX_CLASS_FILE = 100_000, 1024, 16 * 2**20


def class_order(foreign: Foreign, ours: tuple[str, ...] | None, *, typed: bool) -> Tensor | None:
    """The place of each of the files' classes among those of the facts, (k,) int64; None when numbers are places.

    Args:
        foreign: what the files say.
        ours: the classes of the facts, in label order.
        typed: whether the user typed them, so that new names may stand for those of the files.

    Raises:
        BundleError: names that the facts do not have, or another number of them; names that two classes share.
    """
    theirs = foreign.classes
    if theirs is None or ours is None or not foreign.by_name or theirs == ours:
        return None
    places = {name: place for place, name in enumerate(ours)}
    strange = [name for name in theirs if name not in places]
    if not strange:
        _check_different(foreign.name, theirs, ours)
        return torch.tensor([places[name] for name in theirs])
    if len(theirs) != len(ours) or len(strange) < len(theirs) or not typed:
        raise BundleError(
            f"{foreign.name}: class {strange[0]!a:.80} is not among the {len(ours)} classes "
            f"{', '.join(ours[:5])[:120]}",
            field="classes",
            hint="give --classes: the names of its classes, or new names in the order in which its own are sorted",
        )
    return None


def _check_different(name: str, *orders: tuple[str, ...]) -> None:
    """A name that two classes share cannot be looked up."""
    twice = [label for names in orders for label, count in Counter(names).items() if count > 1]
    if twice:
        raise BundleError(
            f"{name}: two classes are called {twice[0]!a:.80}, so that they cannot be put into another order",
            field="classes",
            hint="give --classes: other names, all different, in the order of its own",
        )


def class_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names as they were typed, or the lines of the one file that was named.

    Raises:
        UsageError: a file that cannot be read, fewer than two names, one twice, an empty or too long one.
    """
    names = list(given)
    if len(given) == 1:
        path = Path(given[0])
        try:
            if path.stat().st_size > MAX_CLASS_FILE:
                raise UsageError(f"--classes: the file has more than {MAX_CLASS_FILE} bytes", field="classes")
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise UsageError(
                f"--classes '{given[0][:80]}' is neither several names nor a text file", field="classes"
            ) from error
    bad = len(names) < 2 or len(names) > MAX_CLASSES or len(set(names)) < len(names)
    if bad or any(not name.strip() or len(name) > MAX_NAME for name in names):
        raise UsageError(
            f"--classes gives {len(names)} names, expected 2 or more, all different, none empty", field="classes"
        )
    return tuple(names)
