"""`ddlabel refine`."""

from __future__ import annotations

from ..config import RefineConfig
from ._options import Command, ConfigFile, Invocation, Output, Resume, Talk
from ._stage import SET_HELP, Stage, run_stage

__all__ = ["COMMAND", "plugins_named"]


def run(invocation: Invocation) -> None:
    r"""Change the labels of a bundle: GIFT's refinement, another codec, or labels learned from real data (DCPI).

    \b
    Example:
      ddlabel refine dense.ddset --method gift -o gift.ddset
      ddlabel refine base.ddset --method dcpi --data digits --set steps=20 -o learned.ddset
    """
    run_stage(invocation, RefineConfig, _stage, options=plugins_named)


def plugins_named(config: RefineConfig) -> list[tuple[str, str, str]]:
    """What `--set` may speak of, and what must exist."""
    codec = [] if config.codec in {"keep", "auto"} else [("codecs", config.codec, "CODEC")]
    return [("refine", config.method, "REFINEMENT"), *codec]


def _stage() -> Stage:
    from ..stages.refine import run as stage

    return stage


COMMAND = Command(
    name="refine",
    run=run,
    records=(RefineConfig, ConfigFile, Output, Resume, Talk),
    files="BUNDLE",
    lists={
        "teacher": "dcpi: experts (--matcher mtt, datm), or the net whose features come first; repeatable",
        "set": SET_HELP,
    },
)
