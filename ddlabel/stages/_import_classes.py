"""The classes of an import: their names, and the place of each class of the files among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BundleError, DdlabelError, ResourceError, UsageError
from ..importers._importer import Foreign
from ..importers._sources import Sources

__all__ = ["class_names", "class_order", "names_of_the_file"]

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
        try:
            names = Sources([]).read(Path(given[0]), limit=MAX_CLASS_FILE).decode("utf-8-sig").splitlines()
        except (BundleError, ResourceError, ValueError) as error:
            why = f" ({error.message})" if isinstance(error, DdlabelError) else ""
            raise UsageError(
                f"--classes '{given[0][:80]}' is neither several names nor a text file{why}", field="classes"
            ) from error
    problem = _wrong_with(names)
    if problem:
        raise UsageError(f"--classes gives {problem}", field="classes")
    return tuple(names)


def names_of_the_file(foreign: Foreign) -> tuple[str, ...] | None:
    """The classes that the files name, by the same rule as those that are typed.

    Only an export may give one name to two classes, as its bundle had them: ImageNet has two cranes.

    Raises:
        BundleError: fewer than two names, one twice, an empty or too long one, one that is no Unicode.
    """
    problem = None if foreign.classes is None else _wrong_with(foreign.classes, may_repeat=foreign.export is not None)
    if problem:
        raise BundleError(
            f"{foreign.name} has {problem}",
            field="classes",
            hint="give --classes: the names of its classes in label order",
        )
    return foreign.classes


def _wrong_with(names: Sequence[str], *, may_repeat: bool = False) -> str | None:
    """What is wrong with names of classes."""
    if any(not _is_unicode(name) for name in names):
        return f"the class name {next(name for name in names if not _is_unicode(name))!a:.80}, which is no Unicode"
    bad = len(names) < 2 or len(names) > MAX_CLASSES or (len(set(names)) < len(names) and not may_repeat)
    if bad or any(not name.strip() or len(name) > MAX_NAME for name in names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        which = f" ({twice[0]!a:.80} twice)" if twice else ""
        return (
            f"{len(names)} class names{which}, expected 2 or more, all different, none empty or of more than "
            f"{MAX_NAME} characters"
        )
    return None


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a character."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
