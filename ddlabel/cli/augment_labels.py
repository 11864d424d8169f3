"""`ddlabel augment-labels`."""

from __future__ import annotations

from ..config import AugmentLabelsConfig
from ._options import Command, ConfigFile, Invocation, Output, Processes, Resume, Talk
from ._stage import SET_HELP, TEACHER_HELP, Stage, run_stage

__all__ = ["COMMAND", "plugins_named"]


def run(invocation: Invocation) -> None:
    r"""Let teachers label the images of a bundle: soft labels, labels of sub-crops, or what a layer gives.

    \b
    Example:
      ddlabel augment-labels base.ddset --teacher teacher.ddset --kind dense --codec q8 -o dense.ddset
      ddlabel augment-labels base.ddset --teacher teacher.ddset --kind feature --codec f16 -o feature.ddset
    """
    run_stage(
        invocation,
        AugmentLabelsConfig,
        _stage,
        options=plugins_named,
    )


def plugins_named(config: AugmentLabelsConfig) -> list[tuple[str, str, str]]:
    """What `--set` may speak of, and what must exist."""
    codec = [] if config.codec in {"auto", "default"} else [("codecs", config.codec, "CODEC")]
    return [("labels", config.kind, "KIND"), *codec]


def _stage() -> Stage:
    from ..stages.augment_labels import run as stage

    return stage


COMMAND = Command(
    name="augment-labels",
    run=run,
    records=(AugmentLabelsConfig, ConfigFile, Processes, Output, Resume, Talk),
    files="BUNDLE",
    lists={"teacher": TEACHER_HELP + " (what they say is averaged)", "set": SET_HELP},
)
