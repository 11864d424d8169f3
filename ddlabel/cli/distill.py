"""`ddlabel distill`."""

from __future__ import annotations

from ..config import DistillConfig
from ._options import Command, ConfigFile, Invocation, Output, Processes, Resume, Talk
from ._stage import SET_HELP, TEACHER_HELP, Stage, run_stage

__all__ = ["COMMAND"]


def run(invocation: Invocation) -> None:
    r"""Select or optimise a few images per class, and write them with hard labels as a distilled bundle.

    \b
    Example:
      ddlabel distill --data digits --method dm --ipc 10 --set steps=200 -o base.ddset
    """
    run_stage(invocation, DistillConfig, _stage, options=lambda config: [("distill", config.method, "METHOD")])


def _stage() -> Stage:
    from ..stages.distill import run as stage

    return stage


COMMAND = Command(
    name="distill",
    run=run,
    records=(DistillConfig, ConfigFile, Processes, Output, Resume, Talk),
    lists={"teacher": TEACHER_HELP + " or several in a row", "set": SET_HELP},
    spread=("teacher",),
)
