"""`ddlabel methods`: every plugin with its source, and the options of one."""

from __future__ import annotations

import dataclasses
from typing import Any

from .._plugins import load, names, summary
from ..errors import UsageError, suggest
from ..options import describe
from ._options import Command, Invocation, Talk
from ._report import print_json

__all__ = ["COMMAND", "ROOMS"]

ROOMS = {
    "distill": ("METHOD", "distill --method"),
    "labels": ("KIND", "augment-labels --kind"),
    "codecs": ("CODEC", "augment-labels --codec"),
    "refine": ("REFINEMENT", "refine --method"),
    "losses": ("LOSS", "evaluate --loss"),
    "protocols": ("PROTOCOL", "evaluate --protocol"),
    "nets": ("NET", "--arch"),
    "augment": ("AUGMENT", "--set augment="),
    "data": ("DATASET", "--data"),
    "generators": ("GENERATOR", "distill --method glad --set generator="),
    "exporters": ("EXPORTER", "export --format"),
    "importers": ("IMPORTER", "import --format"),
}
"""Rooms of plugins: the name each module defines, and where a user types the plugin's name."""
TEACHER, EVALUATE = "train-teacher", "evaluate"
"""Stages whose `--set` takes options that are of no plugin."""


def run(invocation: Invocation) -> None:
    r"""List every method, label kind, codec, loss, protocol, net and data set, or the options of the ones named.

    The name train-teacher lists what that command takes by --set: options of training, scores and curriculum; the name
    evaluate what that one takes for feature and attention labels, classes that come in steps and a live teacher.

    \b
    Example:
      ddlabel methods
      ddlabel methods dm
      ddlabel methods train-teacher
    """
    talk = invocation.record(Talk)
    invocation.fail_if_any()
    known = [(room, name) for room in ROOMS for name in names(room)]
    wanted = invocation.files
    typed = {TEACHER, EVALUATE, *(name for _room, name in known)}
    unknown = [name for name in wanted if name not in typed]
    if unknown:
        raise UsageError(f"unknown plugin '{unknown[0]}'{suggest(unknown[0], typed)}")
    chosen = [(room, name) for room, name in known if not wanted or name in wanted]
    entries = [_entry(room, name, with_options=bool(wanted)) for room, name in chosen]
    if TEACHER in wanted:
        entries += _teacher_entries()
    if EVALUATE in wanted:
        entries += _evaluate_entries()
    if talk.json:
        print_json("methods", {"plugins": entries})
    else:
        _print(entries)


def _entry(room: str, name: str, *, with_options: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"room": room, "name": name, "summary": summary(room, name), "where": ROOMS[room][1]}
    if with_options:
        plugin = load(room, name, ROOMS[room][0])
        plugin = getattr(plugin, "options", plugin)
        is_record = isinstance(plugin, type) and dataclasses.is_dataclass(plugin)
        entry["options"] = [dataclasses.asdict(option) for option in describe(plugin)] if is_record else []
    return entry


def _teacher_entries() -> list[dict[str, Any]]:
    """The records that `train-teacher --set` fills, with the defaults of that stage."""
    from ..curriculum import Fiex
    from ..stages._scores import ScoreOptions
    from ..stages.train_teacher import default_recipe

    parts = {
        "recipe": (default_recipe(), "How nets are trained; --epochs and --optimizer set some of it."),
        "scores": (ScoreOptions(), "How --scores NAME computes difficulty."),
        "curriculum": (
            Fiex(),
            "What --curriculum shows each epoch; defaults of pad for images of 32 px in 10 classes.",
        ),
    }
    return [
        {
            "room": TEACHER,
            "name": name,
            "summary": about,
            "where": f"{TEACHER} --set",
            "options": [
                dataclasses.asdict(dataclasses.replace(option, default=getattr(record, option.name)))
                for option in describe(type(record))
            ],
        }
        for name, (record, about) in parts.items()
    ]


def _evaluate_entries() -> list[dict[str, Any]]:
    """What `evaluate --set` takes for privileged labels, for classes that come in steps, and for a live teacher."""
    from ..privileged._objective import Objective
    from ..stages._increments import IncrementalOptions
    from ..stages._online import OnlineOptions
    from ..stages._use_options import describe_use

    parts = {
        "objective": (describe(Objective), "Weights of feature and attention labels; their defaults are the bundle's."),
        "use": (describe_use(), "How students use these labels."),
        "incremental": (describe(IncrementalOptions), "Labels of classes that come in steps, --incremental."),
        "online": (describe(OnlineOptions), "A live teacher, --teacher alone or --labels online."),
    }
    return [
        {
            "room": EVALUATE,
            "name": name,
            "summary": about,
            "where": f"{EVALUATE} --set",
            "options": [dataclasses.asdict(option) for option in options],
        }
        for name, (options, about) in parts.items()
    ]


def _print(entries: list[dict[str, Any]]) -> None:
    room = None
    for entry in entries:
        if entry["room"] != room:
            room = entry["room"]
            print(f"{'' if entry is entries[0] else chr(10)}{entry['where']}")
        print(f"  {entry['name']:16} {entry['summary']}")
        for option in entry.get("options", ()):
            bounds = f" [{option['bounds']}]" if option["bounds"] else ""
            default = "required" if option["required"] else f"default {option['default']}"
            print(f"      --set {option['name']}={option['type']}  {option['help']}{bounds} ({default})")


COMMAND = Command(name="methods", run=run, records=(Talk,), files="[NAME...]")
