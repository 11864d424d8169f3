"""Commands that should answer at once, as fresh processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import torch
from _files import folder, make_bundle, tensors
from _work import Work


def command(*arguments: str) -> Callable[[], object]:
    """Run ddlabel."""
    line = [sys.executable, "-m", "ddlabel", *arguments]
    return lambda: subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def show_help(device: torch.device) -> Callable[[], object]:
    """The first page."""
    del device
    return command("--help")


def inspect(device: torch.device, megabytes: float) -> Callable[[], object]:
    """What a bundle is, from its header and manifest."""
    del device
    path = folder() / "teacher.ddset"
    make_bundle(tensors(megabytes)).save(path)
    return command("inspect", str(path))


WORKS = (
    Work(
        "help",
        "ddlabel --help as a fresh process, no reference",
        {"-": {}},
        ours=show_help,
        repeat=3,
        processes=True,
    ),
    Work(
        "inspect",
        "ddlabel inspect FILE as a fresh process, no reference",
        {f"{megabytes} MB": {"megabytes": megabytes} for megabytes in (1, 100)},
        ours=inspect,
        repeat=3,
        processes=True,
    ),
)
