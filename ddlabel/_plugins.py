"""The module is the plugin: a room is a package, each public module in it defines one agreed name.

Rooms: `nets` (NET), `augment` (AUGMENT), `losses` (LOSS), `codecs` (CODEC), `data` (DATASET), `labels` (KIND),
`distill` (METHOD), `refine` (REFINEMENT), `protocols` (PROTOCOL), `generators` (GENERATOR), `importers` (IMPORTER),
`exporters` (EXPORTER).
Listing a room imports none of its modules.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

from .errors import UsageError, suggest

__all__ = ["is_known", "load", "names", "summary"]

_NOUN = {
    "nets": "net",
    "augment": "augmentation",
    "losses": "loss",
    "codecs": "codec",
    "data": "data set",
    "labels": "label kind",
    "distill": "method",
    "refine": "refinement",
    "protocols": "protocol",
    "generators": "generator",
    "exporters": "format",
    "importers": "format",
}


def names(room: str) -> tuple[str, ...]:
    """The plugins of a room as typed on the command line, sorted: modules without a leading underscore.

    Names have hyphens where modules have underscores, except losses, whose published names have underscores.
    """
    package = importlib.import_module(f"{__package__}.{room}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    joint = "_" if room == "losses" else "-"
    return tuple(sorted(name.replace("_", joint) for name in found if not name.startswith("_")))


def is_known(room: str, name: str) -> bool:
    """Whether the room has such a plugin, spelled as `names` lists it."""
    return name in names(room)


def summary(room: str, name: str) -> str:
    """First line of a plugin's docstring, read from its source without importing it.

    Raises:
        UsageError: the room has no such plugin.
    """
    spec = importlib.util.find_spec(_module(room, name)) if is_known(room, name) else None
    if spec is None or spec.origin is None:
        raise _unknown(room, name)
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return doc.splitlines()[0] if doc else ""


def load(room: str, name: str, socket: str) -> Any:
    """Import one plugin and return the object it plugs in.

    Raises:
        UsageError: the room has no such plugin. An ImportError inside the plugin is not caught.
    """
    if not is_known(room, name):
        raise _unknown(room, name)
    return getattr(importlib.import_module(_module(room, name)), socket)


def _module(room: str, name: str) -> str:
    return f"{__package__}.{room}.{name.replace('-', '_')}"


def _unknown(room: str, name: str) -> UsageError:
    return UsageError(f"unknown {_NOUN.get(room, room)} '{name}'{suggest(name, names(room))}", field=room)
