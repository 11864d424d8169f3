"""From option records to typer commands.

Typer splits the command line and prints help. Every option is read as text; `Invocation` checks them.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import signal
from collections.abc import Mapping
from typing import Any

import typer

from ..errors import InterruptedRunError
from ..options import OptionDoc, describe
from ._options import Command, ConfigFile, Invocation, Line, flag_of, spellings_of, switches

__all__ = ["ReaderGone", "register"]

_FILES = {"output", "grid_file", "config"}
_OFF = "off_"
"""Before the name of a flag: the parameter that switches it off."""
THREADS = "DDLABEL_THREADS"
"""Environment variable: what --threads is where nobody says."""


class ReaderGone(Exception):  # noqa: N818 - not an error of ours
    """The reader of our pipe went away; carried past typer, which would turn a BrokenPipeError into exit 1."""


def register(app: typer.Typer, command: Command) -> None:
    """Add a command to the application, its signature made from the option records."""

    def body(**values: Any) -> None:
        line = values.pop("context").obj
        line = line if isinstance(line, Line) else Line()
        invocation = _with_environment(_without_recipe(_with_file(_invocation(command, values, line), line)))
        try:
            (line.instead or command.run)(invocation)
        except BrokenPipeError as error:
            raise ReaderGone from error
        except KeyboardInterrupt as error:  # typer would turn it into an exit code that it does not return
            raise InterruptedRunError(signal.SIGINT) from error

    body.__signature__ = _signature(command)  # type: ignore[attr-defined]
    # typer keeps lines as they are after a backspace; docstrings are raw strings, which have a backslash and a b
    body.__doc__ = (inspect.getdoc(command.run) or "").replace("\\b", "\b")
    app.command(command.name)(body)


def _invocation(command: Command, values: Mapping[str, Any], line: Line) -> Invocation:
    """What typer parsed; flags are those that were typed, either way."""
    options = [option for record in command.records for option in describe(record)]
    given = {option.name: values[option.name] for option in options}
    problems = list(line.problems)
    flags = {name: True for name, value in given.items() if value is True}
    for name, spelling in switches(command).items():
        if values[_OFF + name]:
            problems += [f"'{flag_of(name)}' and '{spelling}' are both given"] if name in flags else []
            flags[name] = False
    return Invocation(
        command=command,
        files=tuple(values.get("files", ()) or ()),
        texts={name: value for name, value in given.items() if isinstance(value, str)},
        flags=flags,
        lists={name: tuple(values[name] or ()) for name in command.lists},
        problems=problems,
        words=tuple(line.words),
    )


def _with_file(invocation: Invocation, line: Line) -> Invocation:
    if "config" not in invocation.texts or ConfigFile not in invocation.command.records:
        return invocation
    from ._config_file import with_file

    return with_file(invocation, line.commands)


def _without_recipe(invocation: Invocation) -> Invocation:
    """`--recipe auto` is none, so that what is typed can drop the recipe of a file."""
    if invocation.texts.get("recipe", "").lower() not in {"auto", "none"}:
        return invocation
    texts = {name: text for name, text in invocation.texts.items() if name != "recipe"}
    return dataclasses.replace(invocation, texts=texts)


def _with_environment(invocation: Invocation) -> Invocation:
    """With the number of threads that the environment says, beneath everything else."""
    said, texts = os.environ.get(THREADS, ""), invocation.texts
    names = {option.name for record in invocation.command.records for option in describe(record)}
    if not said or "threads" in texts or "threads" not in names:
        return invocation
    if not said.isdecimal():
        invocation.problems.append(f"{THREADS} is '{said[:80]}', expected a whole number")
        return invocation
    return dataclasses.replace(invocation, texts={**texts, "threads": said})


def _signature(command: Command) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
    if command.files is not None:
        argument = typer.Argument(None, metavar=command.files, show_default=False)
        parameters.append(inspect.Parameter("files", keyword, default=argument, annotation=list[str]))
    for record in command.records:
        for option in describe(record):
            flag = option.type == "true|false"
            default = typer.Option(
                False if flag else None,
                *spellings_of(option.name),
                help=_help(option),
                metavar=None if flag else _metavar(option),
                show_default=False,
            )
            annotation = bool if flag else (str | None)
            parameters.append(inspect.Parameter(option.name, keyword, default=default, annotation=annotation))
    for name, spelling in switches(command).items():
        default = typer.Option(False, spelling, hidden=True)
        parameters.append(inspect.Parameter(_OFF + name, keyword, default=default, annotation=bool))
    for name, text in command.lists.items():
        default = typer.Option(None, flag_of(name), help=text, metavar=_list_metavar(name), show_default=False)
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=list[str]))
    return inspect.Signature(parameters)


def _metavar(option: OptionDoc) -> str:
    return "FILE" if option.name in _FILES else option.type.removesuffix(" or auto").upper()


def _list_metavar(name: str) -> str:
    return "NAME=VALUE" if name == "set" else "FILE"


def _help(option: OptionDoc) -> str:
    notes = [option.bounds] if option.bounds else []
    if option.required:
        notes.append("required")
    elif option.default not in (None, False, (), ""):
        notes.append(f"default {option.default}")
    return option.help + (f" [{'; '.join(notes)}]" if notes else "")
