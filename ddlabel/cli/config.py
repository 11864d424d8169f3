"""`ddlabel config`."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .. import __version__
from ..errors import UsageError, suggest
from ..options import OptionDoc, build, describe, parse_value
from ._config_file import SET, option_records, stage_commands
from ._options import Command, Invocation, Output, Resume, Talk
from ._report import print_json

__all__ = ["COMMAND", "dump", "dumped_stage"]

USUAL = "config dump STAGE [options of the stage]"


def run(invocation: Invocation) -> None:
    r"""Print what a stage would run with, as a TOML file that its --config takes: config dump STAGE [OPTIONS].

    Everything is in it: what is typed, over --config FILE, over --recipe, over the defaults. Values are checked, those
    of --set too, but bundles are not read and nothing runs; --json prints the same as JSON.

    \b
    Example:
      ddlabel config dump distill --data digits --method dm --ipc 10 --set steps=200 > dm.toml
      ddlabel distill --config dm.toml -o base.ddset
    """
    words = invocation.files
    if words and words[0] != "dump":
        raise UsageError(f"unknown command 'config {words[0][:80]}', expected '{USUAL}'")
    raise UsageError(f"no stage given, expected '{USUAL}'", field="stage")


def dumped_stage(arguments: Sequence[str], commands: Sequence[Command]) -> list[str] | None:
    """The command line of the stage in `config dump STAGE ...`; None where the words are no such line.

    Raises:
        UsageError: it is no stage.
    """
    if len(arguments) < 3 or list(arguments[:2]) != ["config", "dump"] or arguments[2].startswith("-"):
        return None
    stages, name = stage_commands(commands), arguments[2]
    if name not in stages:
        raise UsageError(f"unknown stage '{name[:80]}'{suggest(name, stages)}", field="stage")
    return list(arguments[2:])


def dump(invocation: Invocation) -> None:
    """Print what the stage would run with.

    Raises:
        UsageError: everything that is wrong with the options, with those of `--set` as the stage would say it.
    """
    from ._set_options import check_plugins
    from ._stage import follow_recipe

    talk, settings = invocation.record(Talk), invocation.settings()
    if "recipe" in invocation.texts:
        invocation, settings = follow_recipe(invocation, settings)
    values: dict[str, Any] = {}
    missing: list[OptionDoc] = []
    for record in option_records(invocation.command):
        values |= _values(invocation, record)
        missing += [option for option in describe(record) if option.required and option.name not in invocation.texts]
    if not invocation.problems:
        check_plugins(invocation, settings, whole=True)
    invocation.fail_if_any()
    for name in invocation.command.lists:
        if name != SET and invocation.lists.get(name):
            values[name] = list(invocation.lists[name])
    stage = invocation.command.name
    if talk.json:
        print_json("config", {"stage": stage, "options": values, "set": settings})
    else:
        print("\n".join(_lines(stage, values, settings, missing)))


def _values(invocation: Invocation, record: type[Any]) -> dict[str, Any]:
    """The options of a record by name, "auto" where that is said; where the result goes is there only where it is."""
    hints = typing.get_type_hints(record)
    options = {option.name: option for option in describe(record)}
    given = {**invocation.texts, **invocation.flags}
    said = {name: given[name] for name in options if name in given}
    try:
        build(record, {name: "" for name, option in options.items() if option.required} | said)
    except UsageError as error:
        invocation.problems.extend(problem.replace("_", "-") for problem in error.problems)
        return {}
    wanted = said if record in {Output, Resume} else options
    values: dict[str, Any] = {}
    for name in wanted:
        if name in said:
            value = said[name]
            value = parse_value(value, hints[name]) if isinstance(value, str) else value
            values[name] = "auto" if value is None else list(value) if isinstance(value, tuple) else value
        elif not options[name].required:
            values[name] = options[name].default
    return values


def _lines(
    stage: str, values: Mapping[str, Any], settings: Mapping[str, str], missing: Sequence[OptionDoc]
) -> Iterator[str]:
    yield f"# what 'ddlabel {stage}' would run with (ddlabel {__version__}); 'ddlabel {stage} --config FILE' takes it"
    yield f"[{stage}]"
    yield from (f"# {option.name} = ...  # required: {option.help}" for option in missing)
    for name, value in values.items():
        comment = "# " if value is None or value == () else ""
        yield f"{comment}{name} = {_toml('auto' if value is None else value)}"
    if settings:
        yield ""
        yield f"[{stage}.{SET}]"
        yield from (f"{_key(name)} = {_setting(text)}" for name, text in settings.items())


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # JSON's texts are TOML's, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _setting(text: str) -> str:
    """The number, true or false that a text is written like, else the text."""
    if text in {"true", "false"}:
        return text
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if repr(number) == text and text not in {"inf", "-inf", "nan"}:
            return text
    return _toml(text)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _toml(name)


COMMAND = Command(name="config", run=run, records=(Talk,), files="dump STAGE")
