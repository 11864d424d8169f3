"""`ddlabel version`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
from pathlib import Path

from .. import __version__
from ._options import Command, Invocation, Talk
from ._report import print_json

__all__ = ["COMMAND"]

_PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "zstandard", "pillow", "typer", "rich")


def run(invocation: Invocation) -> None:
    r"""Print the versions of ddlabel, Python and what it stands on.

    \b
    Example:
      ddlabel version --json
    """
    import zstandard

    talk = invocation.record(Talk)
    invocation.fail_if_any()
    versions = {"ddlabel": __version__, "python": platform.python_version(), "system": platform.system()}
    versions |= {name: _version(name) for name in _PACKAGES}
    versions |= {"zstd": ".".join(map(str, zstandard.ZSTD_VERSION)), "cuda": _cuda()}
    if talk.json:
        print_json("version", {"versions": versions})
        return
    for name, version in versions.items():
        print(f"{name:12} {version}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    """What torch was built for, read from its sources: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    file = Path(places[0], "version.py") if places else Path()
    found = (
        re.search(r"""^cuda\b.*=\s*['"]([\d.]+)['"]""", file.read_text(encoding="utf-8"), re.M)
        if file.is_file()
        else None
    )
    return found[1] if found else "none"


COMMAND = Command(name="version", run=run, records=(Talk,))
