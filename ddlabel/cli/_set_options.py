"""What `--set` says, checked as the stages check it, by the options alone: no bundle is read and nothing runs.

Where a bundle, or what may yet be typed, decides what takes the options (the codec that `refine` keeps, the loss that
suits the labels), names are checked against all that may be, and values where there is but one choice.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError, suggest
from ..options import build, build_many, describe
from . import augment_labels, evaluate, refine
from ._options import Invocation
from ._stage import check_names

__all__ = ["check_plugins"]

Settings = Mapping[str, str]
Plugins = Sequence[tuple[str, str, str]]
NAMED_BY = {"distill": "method", "refine": "method", "augment-labels": "kind"}
"""The option that decides what `--set` takes, by stage."""


def check_plugins(invocation: Invocation, settings: Settings, *, whole: bool) -> None:
    """Refuse unknown plugins, and options of `--set` that they do not take; what is wrong joins the problems.

    Args:
        invocation: a command line, with what its recipe says.
        settings: what `--set` says, its recipe included; what a recipe alone says is not checked.
        whole: whether this is all that is said; else more may be typed, and plugins that are not named are not known.
    """
    stage = invocation.command.name
    config = invocation.attempt(lambda: _config(invocation)) if stage in STAGES else None
    if config is None:
        return
    plugins, check = STAGES[stage]
    before = len(invocation.problems)
    invocation.attempt(lambda: check_names(plugins(config)))
    known = whole or stage not in NAMED_BY or NAMED_BY[stage] in invocation.texts
    if known and invocation.lists.get("set") and len(invocation.problems) == before:
        invocation.attempt(lambda: check(config, settings, whole))


def _config(invocation: Invocation) -> Any:
    """The stage's record; what is required and not there is empty."""
    record = invocation.command.records[0]
    options = {option.name: option for option in describe(record)}
    said = {name: value for name, value in {**invocation.texts, **invocation.flags}.items() if name in options}
    return build(record, {name: "" for name, option in options.items() if option.required} | said)


def _train_teacher(config: Any, settings: Settings, whole: bool) -> None:
    from ..schedules import Recipe
    from ..stages._difficulty import PARTS
    from ..stages.train_teacher import read_options

    later = config.scores is not None and os.path.basename(config.scores) != config.scores
    if whole and (not later or os.path.isfile(config.scores)):
        read_options(config, settings)
    else:
        _check([Recipe], list(PARTS), settings)


def _distill(config: Any, settings: Settings, whole: bool) -> None:
    from ..stages.distill import read_method

    del whole
    read_method(config, settings)


def _augment_labels(config: Any, settings: Settings, whole: bool) -> None:
    from .._plugins import load
    from ..stages.augment_labels import DEFAULT, build_kind_and_codec, with_codec

    if whole or config.codec != DEFAULT:
        build_kind_and_codec(with_codec(config), settings)
    else:
        _check([load("labels", config.kind, "KIND")], _all("codecs", "CODEC"), settings)


def _refine(config: Any, settings: Settings, whole: bool) -> None:
    from .._plugins import load
    from ..stages._learning import CODEC

    refinement, codec = load("refine", config.method, "REFINEMENT"), config.codec
    sure: list[Any] = [refinement]
    possible: list[Any] = []
    if hasattr(refinement, "for_settings"):
        matchers = [config.matcher] if whole or config.matcher else ["dc", "mtt", "datm"]
        learners = [refinement.for_settings({"matcher": matcher}) for matcher in matchers]
        sure, possible = (learners, []) if len(learners) == 1 else ([], learners)
        codec = CODEC if whole and codec == "keep" else codec
    if codec == "keep" or (codec == "auto" and not whole):
        possible += _all("codecs", "CODEC")
    elif codec != "auto":
        sure.append(load("codecs", codec, "CODEC"))
    _check(sure, possible, settings)


def _evaluate(config: Any, settings: Settings, whole: bool) -> None:
    from .._plugins import load
    from ..privileged._objective import Objective
    from ..protocols.ddranking import RankingOptions
    from ..schedules import Recipe
    from ..stages._increments import IncrementalOptions
    from ..stages._online import ONLINE, OnlineOptions
    from ..stages._ranking import PROTOCOL
    from ..stages._use_options import AS, UseOptions

    kinds, named = config.labels or "", [name for name in config.loss if name != "native"]
    sure: list[Any] = [Recipe, *(load("losses", name, "LOSS") for name in named)]
    possible: list[Any] = [] if named and len(named) == len(config.loss) and whole else _all("losses", "LOSS")
    beside = not kinds or "feature" in kinds or "attention" in kinds
    if beside:
        possible += [Objective, UseOptions]
    wanted = {
        OnlineOptions: (config.labels == ONLINE or config.protocol == "kd", config.labels is None),
        RankingOptions: (config.protocol == PROTOCOL, not whole and config.protocol is None),
        IncrementalOptions: (bool(config.incremental), not whole),
    }
    sure += [record for record, (asked, _may) in wanted.items() if asked]
    possible += [record for record, (asked, may) in wanted.items() if may and not asked]
    _check(sure, possible, {name: value for name, value in settings.items() if name != AS or not beside})
    both = [name for name in ("optimizer", "epochs") if getattr(config, name) and name in settings]
    if both:
        raise UsageError.collect([f"option '{name}' is given by --{name} and by --set, expected one" for name in both])


def _import(config: Any, settings: Settings, whole: bool) -> None:
    from .._plugins import load

    del whole
    named = config.format not in {"auto", None}
    sure = [load("importers", config.format, "IMPORTER")] if named else []
    _check(sure, [] if named else _all("importers", "IMPORTER"), settings)


def _export(_config: Any, _settings: Settings, _whole: bool) -> None:
    """It has no `--set`."""


def _format(room: str, socket: str) -> Callable[[Any], Plugins]:
    return lambda config: () if config.format in {"auto", None} else [(room, config.format, socket)]


def _all(room: str, socket: str) -> list[Any]:
    from .._plugins import load, names

    return [load(room, name, socket) for name in names(room)]


def _check(sure: Sequence[Any], possible: Sequence[Any], settings: Settings) -> None:
    """Names are options of some record, and values those of the records that are sure to be used."""
    own = {field.name for record in sure for field in dataclasses.fields(record)}
    known = own.union(*({field.name for field in dataclasses.fields(record)} for record in possible))
    problems = [f"unknown option '{name}'{suggest(name, known)}" for name in settings if name not in known]
    try:
        build_many(sure, {name: value for name, value in settings.items() if name in own})
    except UsageError as error:
        problems += error.problems
    if problems:
        raise UsageError.collect(problems)


STAGES: Mapping[str, tuple[Callable[[Any], Plugins], Callable[[Any, Settings, bool], None]]] = {
    "train-teacher": (lambda _config: (), _train_teacher),
    "distill": (lambda config: [("distill", config.method, "METHOD")], _distill),
    "augment-labels": (augment_labels.plugins_named, _augment_labels),
    "refine": (refine.plugins_named, _refine),
    "evaluate": (evaluate.plugins_named, _evaluate),
    "import": (_format("importers", "IMPORTER"), _import),
    "export": (_format("exporters", "EXPORTER"), _export),
}
"""By stage: the plugins that its options name, and the check of `--set`."""
