"""`--config FILE.toml`: options of stages in a file, over those of a recipe and under what is typed.

A table per stage, `[distill]`, with the options of its command line by name, lists where the command line takes several
values, and a table `[distill.set]` for what `--set` takes. `seed`, `device` and `threads` may also stand above the
tables, for all of them. The whole file is checked, also the tables of other stages: names, types and bounds, plugins,
and `set` where the table names what takes it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError, suggest
from ..options import OptionDoc, build, describe
from ._options import Command, ConfigFile, Invocation, Processes, Talk

__all__ = ["COMMON", "option_records", "stage_commands", "with_file"]

COMMON = ("seed", "device", "threads")
"""Options that may stand above the tables."""
MAX_BYTES = 2**20
"""Largest file that is read."""
SET = "set"

Table = Mapping[str, Any]


def stage_commands(commands: Sequence[Command]) -> dict[str, Command]:
    """The commands that take a file, by name."""
    return {command.name: command for command in commands if ConfigFile in command.records}


def option_records(command: Command) -> tuple[type[Any], ...]:
    """The records whose options a file may hold: not those of how much is said, and by how many processes."""
    return tuple(record for record in command.records if record not in {Talk, ConfigFile, Processes})


def with_file(invocation: Invocation, commands: Sequence[Command]) -> Invocation:
    """The command line with the options of its file beneath it; what is wrong with the file joins the problems."""
    path, problems = invocation.texts["config"], invocation.problems
    try:
        document = _read(path)
    except UsageError as error:
        problems.extend(error.problems)
        return invocation
    stages = stage_commands(commands)
    tables, found = _tables(document, stages)
    for name, other in stages.items():
        if name != invocation.command.name and name in {key.replace("_", "-") for key in document}:
            found += _refused(other, tables[name])
    problems += [f"{path}: {problem}" for problem in found]
    return _over(invocation, tables.get(invocation.command.name, {}))


def _over(invocation: Invocation, values: Table) -> Invocation:
    """A command line over the table of its stage."""
    command = invocation.command
    options = {option.name for record in option_records(command) for option in describe(record)}
    texts = {name: _text(value) for name, value in values.items() if name in options and type(value) is not bool}
    flags = {name: value for name, value in values.items() if name in options and type(value) is bool}
    return dataclasses.replace(
        invocation,
        texts={**texts, **invocation.texts},
        flags={**flags, **invocation.flags},
        lists=_merged(invocation.lists, values, command),
        from_file=frozenset({*texts, *flags} - {*invocation.texts, *invocation.flags}),
    )


def _refused(command: Command, values: Table) -> list[str]:
    """What a stage would refuse of its table by the plugins that the table names; more of them may yet be typed."""
    from ._set_options import check_plugins
    from ._stage import follow_recipe

    table = _over(Invocation(command, (), {}, {"quiet": True}, dict.fromkeys(command.lists, ()), []), values)
    settings = table.settings()
    if table.texts.get("recipe", "auto").lower() not in {"auto", "none"}:
        table, settings = follow_recipe(table, settings)
    check_plugins(table, settings, whole=False)
    return [f"[{command.name}]: {problem}" for problem in dict.fromkeys(table.problems)]


def _merged(typed: Mapping[str, tuple[str, ...]], values: Table, command: Command) -> dict[str, tuple[str, ...]]:
    """Repeatable options: files that are typed replace those of the file, `--set` goes over its table."""
    merged = {name: typed.get(name) or tuple(_items(values.get(name, []))) for name in command.lists if name != SET}
    if SET in command.lists:
        pairs = tuple(f"{name}={_text(value)}" for name, value in values.get(SET, {}).items())
        merged[SET] = (*pairs, *typed.get(SET, ()))
    return merged


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"config '{path}' cannot be read ({error.strerror})", field="config") from error
    except ValueError as error:  # a path with a null character
        raise UsageError(f"config {path!r} is no name of a file", field="config") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"config '{path}' has more than {MAX_BYTES} bytes, expected a table of options")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))  # editors of Windows begin with a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = str(error).rstrip(".")
        raise UsageError(f"config '{path}' is not TOML: {message[:1].lower()}{message[1:]}", field="config") from error
    except RecursionError as error:
        raise UsageError(f"config '{path}' is nested too deeply, expected tables of options") from error


def _tables(document: Table, stages: Mapping[str, Command]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The options of every stage by name, without those that are wrong, and what is wrong."""
    common: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    spelt: dict[str, str] = {}
    for key, value in document.items():
        name = key.replace("_", "-")
        if isinstance(value, dict) and name in stages:
            if name in spelt:
                problems.append(f"[{name}] is there twice, as '{spelt[name]}' and '{key}'")
            spelt[name] = key
            tables[name] = _checked(value, stages[name], problems)
        elif isinstance(value, dict):
            problems.append(f"unknown table [{key[:80]}]{suggest(key, stages)}")
        elif key in COMMON:
            common[key] = value
        else:
            problems.append(f"'{key[:80]}' stands above the tables, expected it in one of {_names(stages)}")
    for index, (name, command) in enumerate(stages.items()):
        found: list[str] = []
        tables[name] = {**_checked(common, command, found), **tables.get(name, {})}
        problems += [] if index else found
    return tables, problems


def _checked(table: Table, command: Command, problems: list[str]) -> dict[str, Any]:
    """The options of a table that the stage has and whose values are of their type; the rest joins the problems."""
    options = {option.name: option for record in option_records(command) for option in describe(record)}
    known = {*options, *command.lists}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            talk = {option.name for record in command.records for option in describe(record)}
            end = "; it is for the command line alone" if name in talk else suggest(name, known)
            problems.append(f"unknown option '{key[:80]}' in [{command.name}]{end}")
            continue
        if name in values:
            problems.append(f"option '{name}' is in [{command.name}] twice, with '-' and with '_'")
        if name == SET:
            problems += (found := list(_wrong_settings(command.name, value)))
            values |= {} if found else {name: value}
            continue
        wrong = _mistyped(options[name], value) if name in options else _mislisted(value)
        wrong = wrong or (_out_of_bounds(command, name, value) if name in options else None)
        if wrong is None:
            values[name] = value
        else:
            problems.append(f"option '{name}' in [{command.name}] is {_shown(value)}, expected {wrong}")
    return values


def _mistyped(option: OptionDoc, value: Any) -> str | None:
    """What was expected instead of a value, or None when its type is right."""
    kind = option.type.removesuffix(" or auto")
    if kind != option.type and value == "auto":
        return None
    if kind.endswith(",..."):
        return _not_a_list(value, kind.removesuffix(",..."))
    open_end = ' or "auto"' if kind != option.type else ""
    return None if _is(value, kind) else f"{WORDS[kind]}{open_end}"


WORDS = {"true|false": "true or false", "int": "a whole number", "float": "a number", "text": "a text in quotes"}
"""What a value of a type is called."""
ITEMS = {"str": "texts", "int": "whole numbers", "float": "numbers"}


def _is(value: Any, kind: str) -> bool:
    """Whether a TOML value is of an option's type; a whole number is a number too, true and false are neither."""
    allowed = {"true|false": (bool,), "int": (int,), "float": (int, float), "text": (str,), "str": (str,)}[kind]
    return type(value) in allowed


def _out_of_bounds(command: Command, name: str, value: Any) -> str | None:
    """What was expected instead of a value of the right type, or None when it may be."""
    record = next(each for each in option_records(command) if name in {option.name for option in describe(each)})
    required = {option.name: "" for option in describe(record) if option.required}
    try:
        build(record, required | {name: value if isinstance(value, bool) else _text(value)})
    except UsageError as error:
        return error.problems[0].rpartition(", expected ")[2]
    return None


def _not_a_list(value: Any, kind: str) -> str | None:
    expected = f"a list of {ITEMS[kind]}"
    if not isinstance(value, list) or not all(_is(item, kind) for item in value):
        return expected
    return f"{expected} without commas" if any(isinstance(item, str) and "," in item for item in value) else None


def _mislisted(value: Any) -> str | None:
    """The same for repeatable options, which name files."""
    fine = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return None if fine else "a list of files in quotes"


def _wrong_settings(stage: str, value: Any) -> Iterator[str]:
    """What is wrong with the table of `--set`, whose names and types are the business of methods and losses."""
    if not isinstance(value, dict):
        yield f"option 'set' in [{stage}] is {_shown(value)}, expected a table [{stage}.set]"
        return
    for key, item in value.items():
        if "=" in key or not all(type(part) in {str, int, float, bool} for part in _items(item)):
            expected = "a number, a text, true, false or a list of them"
            yield f"option '{key[:80]}' in [{stage}.set] is {_shown(item)}, expected {expected}"


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    """A value as it is typed on the command line; floats keep every bit."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | list | dict) else _text(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _names(stages: Collection[str]) -> str:
    return ", ".join(f"[{name}]" for name in stages)
