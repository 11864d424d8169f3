"""`ddlabel evaluate`."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config import EvaluateConfig
from ..errors import UsageError
from ._gradcam import check_folder, remembering, write_overlays
from ._options import Command, ConfigFile, Invocation, Output, Processes, Resume, Talk
from ._stage import SET_HELP, Stage, run_stage

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..stages._gradcam import Overlays

__all__ = ["COMMAND", "plugins_named"]

PICTURES = {"diagnose": ".png", "picture": ".svg"}
"""Options that name a picture, and what their files end with."""


def run(invocation: Invocation) -> None:
    r"""Train fresh students on a bundle and score them on test data: nets x seeds, last epoch.

    \b
    Example:
      ddlabel evaluate dense.ddset --data digits --seeds 3 --epochs 100 -o scored.ddset
      ddlabel evaluate rich.ddset --data digits --labels soft+feature --set lambda_reg=0.5
      ddlabel evaluate soft.ddset --data digits --loss gift,native --incremental 5,10 --picture steps.svg
    """
    force = invocation.flags.get("force", False)
    pictures = {option: path for option in PICTURES if (path := invocation.texts.get(option)) is not None}
    folder = invocation.texts.get("gradcam")
    maps: list[Overlays] = []
    for option, path in pictures.items():
        invocation.attempt(functools.partial(_check_picture, invocation, option, path, force=force))
    if folder is not None:
        output = [name for name in [invocation.texts.get("output")] if name is not None]
        named = (*_inputs(invocation), *output, *pictures.values())
        invocation.attempt(lambda: check_folder(folder, force=force, files=named))
    invocation.attempt(lambda: _check_orders(invocation))
    invocation.attempt(lambda: _check_resume(invocation))

    def draw(bundle: Bundle) -> None:
        _draw(bundle, pictures, force=force)
        if folder is not None:
            _write_maps(maps, folder, force=force)

    run_stage(
        invocation,
        EvaluateConfig,
        lambda: remembering(_stage(), maps),
        options=plugins_named,
        output_optional=True,
        jobs=_students,
        show=_show,
        draw=draw,
    )


def _check_picture(invocation: Invocation, option: str, path: str, *, force: bool) -> None:
    """Before any work, as for the output: the picture cannot be stdout, the output or an input."""
    from ..fsio import check_output

    suffix = PICTURES[option]
    if not path.lower().endswith(suffix):
        kind = suffix[1:].upper()
        raise UsageError(f"option '{option}' is '{path}', expected the name of a {kind} file", field=option)
    output = invocation.texts.get("output")
    check_output(path, force=force, inputs=_inputs(invocation))
    if output is not None and os.path.realpath(output) == os.path.realpath(path):
        raise UsageError(f"option '{option}' is '{path}', which is the output too", field=option)


def _check_orders(invocation: Invocation) -> None:
    """Orders of classes mean something only where classes come in steps."""
    texts = invocation.texts
    if "orders" in texts and not texts.get("incremental") and texts.get("protocol") != "continual":
        raise UsageError(
            "option 'orders' is of classes that come in steps",
            field="orders",
            hint="add --incremental 5 or --protocol continual",
        )


def _check_resume(invocation: Invocation) -> None:
    """States lie beside the output: without one there is none."""
    if invocation.flags.get("resume") and "output" not in invocation.texts:
        raise UsageError(
            "option 'resume' needs an output: without one no state is kept", field="resume", hint="add -o FILE"
        )


def _draw(bundle: Bundle, pictures: Mapping[str, str], *, force: bool) -> None:
    from ._report import say

    evaluation = bundle.manifest.evaluations[-1]
    if "diagnose" in pictures:
        from ._picture import draw_diagnostics

        draw_diagnostics(evaluation["diagnostics"], pictures["diagnose"], force=force)
    if "picture" in pictures:
        from ._chart import write_chart

        write_chart(evaluation, pictures["picture"], force=force)
    for path in pictures.values():
        say(f"wrote {path}")


def _inputs(invocation: Invocation) -> tuple[str, ...]:
    return (*invocation.files, *invocation.lists.get("teacher", ()), *invocation.lists.get("plain", ()))


def _write_maps(maps: list[Overlays], folder: str, *, force: bool) -> None:
    from ._report import say

    for name in write_overlays(folder, maps, force=force):
        say(f"wrote {name}")


def plugins_named(config: EvaluateConfig) -> list[tuple[str, str, str]]:
    """What `--set` may speak of, and what must exist."""
    losses = [("losses", name, "LOSS") for name in config.loss if name != "native"]
    protocols = [] if config.protocol is None else [("protocols", config.protocol, "PROTOCOL")]
    return [*protocols, *losses]


def _students(config: EvaluateConfig) -> int | None:
    """How many are trained; None where that takes more than the command line to know."""
    from .._plugins import is_known

    more = (config.optimizer, config.protocol, config.recipe, config.incremental, config.diagnose)
    groups = [arch for arch in config.arch if not is_known("nets", arch.partition("-")[0])]
    if any(more) or groups or config.baselines or config.equal_bytes:
        return None
    return config.seeds * max(1, len(config.arch)) * max(1, len(config.loss))


def _show(bundle: Bundle, talk: Talk) -> None:
    from ._diagnostics import print_diagnostics
    from ._ranking import print_ranking
    from ._tables import print_evaluations

    del talk
    print_evaluations([(bundle.name, bundle.manifest.evaluations[-1])])
    print_ranking(bundle.name, bundle.manifest.evaluations[-1])
    print_diagnostics(bundle.name, bundle.manifest.evaluations[-1])


def _stage() -> Stage:
    from ..stages.evaluate import run as stage

    return stage


COMMAND = Command(
    name="evaluate",
    run=run,
    records=(EvaluateConfig, ConfigFile, Processes, Output, Resume, Talk),
    files="BUNDLE",
    lists={
        "teacher": "teacher that made the labels, for --baselines; alone, a live one for every batch; repeatable",
        "plain": "plain bundle for --equal-bytes: the same method with as many images as the bytes buy",
        "set": SET_HELP + "; 'ddlabel methods evaluate' those of the evaluation itself",
    },
)
