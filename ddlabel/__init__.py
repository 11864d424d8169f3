"""ddlabel: label-rich dataset distillation, one `.ddset` file per stage.

`ddlabel.load("x.ddset")` gives what an own training loop needs; `ddlabel.Bundle` is the file itself.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` takes longer than all below: a Ctrl-C in that would be a traceback
if TYPE_CHECKING:
    from typing import Any

    from .bundle import Bundle
    from .epoch_dataset import EpochDataset
    from .loaded import LoadedBundle
    from .loading import load

__all__ = ["Bundle", "EpochDataset", "LoadedBundle", "__version__", "load"]
__version__ = "0.1.0"

_HOMES = {"Bundle": "bundle", "EpochDataset": "epoch_dataset", "LoadedBundle": "loaded", "load": "loading"}
"""Modules of the public names, imported on first use, so that `import ddlabel` stays cheap."""


def __getattr__(name: str) -> Any:
    """A public name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ddlabel' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Public names and what is imported."""
    return sorted({*globals(), *__all__})
