"""`ddlabel version`."""

from __future__ import annotations

import importlib.metadata
import platform

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
    talk = invocation.record(Talk)
    invocation.fail_if_any()
    versions = {"ddlabel": __version__, "python": platform.python_version(), "system": platform.system()}
    versions |= {name: _version(name) for name in _PACKAGES}
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


COMMAND = Command(name="version", run=run, records=(Talk,))
