"""ddlabel: label-rich dataset distillation, one `.ddset` file per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle

__all__ = ["Bundle", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import ddlabel` stays cheap."""
    if name == "Bundle":
        from .bundle import Bundle

        return Bundle
    raise AttributeError(f"module 'ddlabel' has no attribute {name!r}")
