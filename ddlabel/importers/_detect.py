"""Which format files have, when nobody says it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .. import _plugins
from ..errors import BundleError, UsageError
from ._sources import Sources, shown

__all__ = ["detect"]


def detect(sources: Sources) -> str:
    """The one format that recognises the files.

    Raises:
        UsageError: none does, or several do.
        BundleError: a file that is not there.
    """
    for path in sources.paths:
        if not os.path.lexists(path):
            raise BundleError(f"{shown(path)}: no such file", hint="check the path")
    known = _plugins.names("importers")
    found = [name for name in known if _plugins.load("importers", name, "IMPORTER").recognises(sources)]
    if len(found) == 1:
        return found[0]
    files = _listed([shown(path) for path in sources.paths])
    if found:
        raise UsageError(f"{files}: may be {' or '.join(found)}", field="format", hint="say which with --format")
    raise UsageError(
        f"{files}: no known format (known: {', '.join(known)})",
        field="format",
        hint="say it with --format, or convert the files to .npz",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
