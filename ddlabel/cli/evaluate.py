"""`ddlabel evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import EvaluateConfig
from ._options import Command, Invocation, Output, Talk
from ._stage import SET_HELP, Stage, run_stage

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["COMMAND"]


def run(invocation: Invocation) -> None:
    r"""Train fresh students on a bundle and score them on test data: nets x seeds, last epoch.

    \b
    Example:
      ddlabel evaluate dense.ddset --data digits --seeds 3 --epochs 100 -o scored.ddset
      ddlabel evaluate rich.ddset --data digits --labels soft+feature --set lambda_reg=0.5
    """
    run_stage(invocation, EvaluateConfig, _stage, options=_plugins_named, output_optional=True, show=_show)


def _plugins_named(config: EvaluateConfig) -> list[tuple[str, str, str]]:
    losses = [("losses", name, "LOSS") for name in config.loss if name != "native"]
    protocols = [] if config.protocol is None else [("protocols", config.protocol, "PROTOCOL")]
    return [*protocols, *losses]


def _show(bundle: Bundle, talk: Talk) -> None:
    from ._tables import print_evaluations

    del talk
    print_evaluations([(bundle.name, bundle.manifest.evaluations[-1])])


def _stage() -> Stage:
    from ..stages.evaluate import run as stage

    return stage


COMMAND = Command(
    name="evaluate",
    run=run,
    records=(EvaluateConfig, Output, Talk),
    files="BUNDLE",
    lists={
        "teacher": "teacher that made the labels, for --baselines; repeatable",
        "plain": "plain bundle for --equal-bytes: the same method with as many images as the bytes buy",
        "set": SET_HELP + "; 'ddlabel methods evaluate' those of feature and attention labels",
    },
)
