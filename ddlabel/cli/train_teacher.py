"""`ddlabel train-teacher`."""

from __future__ import annotations

from ..config import TrainTeacherConfig
from ._options import Command, ConfigFile, Invocation, Output, Resume, Talk
from ._stage import TEACHER_SET_HELP, Stage, run_stage

__all__ = ["COMMAND"]


def run(invocation: Invocation) -> None:
    r"""Train nets on real data and keep chosen checkpoints as a teacher bundle.

    \b
    Example:
      ddlabel train-teacher --data digits --arch convnet-d2-w32 --epochs 20 --keep 10,20 -o teacher.ddset
    """
    run_stage(invocation, TrainTeacherConfig, _stage)


def _stage() -> Stage:
    from ..stages.train_teacher import run as stage

    return stage


COMMAND = Command(
    name="train-teacher",
    run=run,
    records=(TrainTeacherConfig, ConfigFile, Output, Resume, Talk),
    lists={"set": TEACHER_SET_HELP},
)
