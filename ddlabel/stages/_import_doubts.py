"""What of foreign files contradicts itself, or what a user said of them."""

from __future__ import annotations

from ..errors import BundleError, UsageError
from ..importers._guess import summary_of
from ..importers._importer import Foreign
from ._import_facts import OPTION, Facts

__all__ = ["check_units", "contradictions"]

FAR = 32.0
"""Farthest that pixels from 0 to 1 may be from 0; sets that were learned whitened overshoot by a few units at most."""


def check_units(foreign: Foreign, facts: Facts) -> None:
    """Refuse floats that cannot be pixels from 0 to 1, such as pixels from 0 to 255.

    Raises:
        UsageError: an option said that they are.
        BundleError: the files or their format say so.
    """
    if float(foreign.images.abs().max()) <= FAR:
        return
    text = f"{foreign.name}: {summary_of(foreign.images)}, which are no pixels from 0 to 1"
    hint = "divide pixels from 0 to 255 by 255, or save them as uint8"
    if facts.origins.get("values") == OPTION:
        raise UsageError(text, field="values", hint=hint)
    raise BundleError(text, hint=hint)


def contradictions(foreign: Foreign) -> list[str]:
    """A note on images whose soft label names another class than their hard one."""
    if foreign.labels is None or foreign.soft is None:
        return []
    count, other = len(foreign.labels), int((foreign.soft.argmax(dim=1) != foreign.labels).sum())
    if not other:
        return []
    return [
        f"{foreign.name}: of {other} of {count} images ({other / count:.0%}) the largest soft label is of another "
        "class than the label"
    ]
