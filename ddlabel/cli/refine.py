"""`ddlabel refine`."""

from __future__ import annotations

from ..config import RefineConfig
from ._options import Command, Invocation, Output, Talk
from ._stage import SET_HELP, Stage, run_stage

__all__ = ["COMMAND"]


def run(invocation: Invocation) -> None:
    r"""Change the labels of a bundle by labels alone: GIFT's refinement, or another codec.

    \b
    Example:
      ddlabel refine dense.ddset --method gift -o gift.ddset
    """
    run_stage(invocation, RefineConfig, _stage, options=_plugins_named)


def _plugins_named(config: RefineConfig) -> list[tuple[str, str, str]]:
    codec = [] if config.codec in {"keep", "auto"} else [("codecs", config.codec, "CODEC")]
    return [("refine", config.method, "REFINEMENT"), *codec]


def _stage() -> Stage:
    from ..stages.refine import run as stage

    return stage


COMMAND = Command(name="refine", run=run, records=(RefineConfig, Output, Talk), files="BUNDLE", lists={"set": SET_HELP})
