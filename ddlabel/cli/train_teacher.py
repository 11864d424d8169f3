"""`ddlabel train-teacher`."""

from __future__ import annotations

from ..config import TrainTeacherConfig
from ._options import Command, ConfigFile, Invocation, Output, Processes, Resume, Talk
from ._stage import TEACHER_SET_HELP, Stage, run_stage

__all__ = ["COMMAND"]


def run(invocation: Invocation) -> None:
    r"""Train nets on real data and keep chosen checkpoints as a teacher bundle.

    \b
    Example:
      ddlabel train-teacher --data digits --arch convnet-d2-w32 --epochs 20 --keep 10,20 -o teacher.ddset
    """
    run_stage(invocation, TrainTeacherConfig, _stage, jobs=_nets)


def _nets(config: TrainTeacherConfig) -> int | None:
    """How many are trained; None where scores may need more."""
    return None if config.scores or config.recipe else 1 if config.experts is None else config.experts


def _stage() -> Stage:
    from ..stages.train_teacher import run as stage

    return stage


COMMAND = Command(
    name="train-teacher",
    run=run,
    records=(TrainTeacherConfig, ConfigFile, Processes, Output, Resume, Talk),
    lists={"set": TEACHER_SET_HELP},
)
