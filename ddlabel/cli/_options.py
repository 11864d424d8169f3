"""From option records to typer commands: every option is read as text here and checked in `ddlabel.options`.

Typer splits the command line and prints help. Values arrive as text, so that all problems of one command line can be
reported together instead of one at a time.
"""

from __future__ import annotations

import dataclasses
import inspect
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from ..errors import InterruptedRunError, UsageError, suggest
from ..options import OptionDoc, build, describe, opt, parse_assignments

__all__ = [
    "Command",
    "Invocation",
    "Output",
    "ReaderGone",
    "Resume",
    "Talk",
    "known_options",
    "register",
    "split_unknown",
]

_SHORT = {"output": "-o", "quiet": "-q", "verbose": "-v"}
_FILES = {"output", "grid_file"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Talk:
    """How much is said, and in which form."""

    json: bool = opt(False, "print the result as one JSON document on stdout")
    quiet: bool = opt(False, "no progress and no notes on stderr")
    verbose: bool = opt(False, "every message of the stage on stderr")
    debug: bool = opt(False, "show the Python traceback of an error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """Where the bundle goes."""

    output: str | None = opt(None, "file to write, or - for stdout")
    force: bool = opt(False, "overwrite an existing output")
    no_fsync: bool = opt(False, "do not wait for the disk: faster, but a power cut may lose the file")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume:
    """Whether to go on with what an earlier run left; for stages that keep their state."""

    resume: bool = opt(
        False, "continue from OUTPUT.partial, the state that an unfinished run of the same command left there"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand: its options, its positional arguments and what it runs."""

    name: str
    run: Callable[[Invocation], None]
    """Called with the parsed command line; its docstring is the help text, ending with an example."""
    records: tuple[type[Any], ...] = (Talk,)
    """Option records, in the order of the help page."""
    files: str | None = None
    """Name of the positional file arguments in the help, or None when there are none."""
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Repeatable options that belong to no record: name to help."""
    spread: tuple[str, ...] = ()
    """Repeatable options that also take several values in a row."""


@dataclasses.dataclass(frozen=True)
class Invocation:
    """A command line split into texts, before any value is checked."""

    command: Command
    files: tuple[str, ...]
    texts: Mapping[str, str]
    flags: Mapping[str, bool]
    lists: Mapping[str, tuple[str, ...]]
    problems: list[str]
    """Problems found so far; `fail_if_any` raises them together."""

    def record(self, cls: type[Any]) -> Any:
        """Build an option record; its problems join the list, and the result is then None."""
        names = {option.name for option in describe(cls)}
        texts = {name: text for name, text in self.texts.items() if name in names}
        flags = {name: value for name, value in self.flags.items() if name in names}
        try:
            return build(cls, {**texts, **flags})
        except UsageError as error:
            self.problems.extend(problem.replace("_", "-") for problem in error.problems)
            return None

    def settings(self) -> dict[str, str]:
        """The `--set NAME=VALUE` pairs as texts."""
        try:
            return parse_assignments(self.lists.get("set", ()))
        except UsageError as error:
            self.problems.extend(error.problems)
            return {}

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Run a check; a usage error joins the list, and the result is then None."""
        try:
            return call()
        except UsageError as error:
            self.problems.extend(error.problems)
            return None

    def fail_if_any(self) -> None:
        """Raise everything found so far as one error."""
        if self.problems:
            raise UsageError.collect(self.problems)


class ReaderGone(Exception):  # noqa: N818 - not an error of ours
    """The reader of our pipe went away; carried past typer, which would turn a BrokenPipeError into exit 1."""


def register(app: typer.Typer, command: Command) -> None:
    """Add a command to the application, its signature made from the option records."""

    def body(**values: Any) -> None:
        context = values.pop("context")
        options = [option for record in command.records for option in describe(record)]
        given = {option.name: values.pop(option.name) for option in options}
        invocation = Invocation(
            command=command,
            files=tuple(values.pop("files", ()) or ()),
            texts={name: value for name, value in given.items() if isinstance(value, str)},
            flags={name: value for name, value in given.items() if isinstance(value, bool)},
            lists={name: tuple(values[name] or ()) for name in command.lists},
            problems=list(context.obj or ()),
        )
        try:
            command.run(invocation)
        except BrokenPipeError as error:
            raise ReaderGone from error
        except KeyboardInterrupt as error:  # typer would turn it into an exit code that it does not return
            raise InterruptedRunError(signal.SIGINT) from error

    body.__signature__ = _signature(command)  # type: ignore[attr-defined]
    # typer keeps lines as they are after a backspace; docstrings are raw strings, which have a backslash and a b
    body.__doc__ = (inspect.getdoc(command.run) or "").replace("\\b", "\b")
    app.command(command.name)(body)


def known_options(command: Command) -> dict[str, bool]:
    """Every spelling of the command's options, and whether it takes a value."""
    known = {"--help": False, "-h": False}
    for record in command.records:
        for option in describe(record):
            for spelling in _spellings(option.name):
                known[spelling] = option.type != "true|false"
    known.update({_flag(name): True for name in command.lists})
    return known


def split_unknown(command: Command, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take unknown options out of a command line, and expand options that take several values in a row.

    Returns:
        The arguments that remain, and one problem per unknown option.
    """
    known = known_options(command)
    kept: list[str] = []
    problems: list[str] = []
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        name = token.split("=", 1)[0]
        if token == "--":
            return [*kept, token, *tokens], problems
        if not token.startswith("-") or token == "-":
            kept.append(token)
        elif name in known:
            if known[name] and "=" not in token and (not tokens or _is_option(tokens[0], known)):
                problems.append(f"option '{name}' needs a {'file' if _takes_file(command, name) else 'value'}")
                continue
            kept.append(token)
            if known[name] and "=" not in token:
                kept.append(tokens.pop(0))
                while name.lstrip("-") in command.spread and tokens and not tokens[0].startswith("-"):
                    kept += [name, tokens.pop(0)]
        elif token[:2] in known and not token.startswith("--") and known[token[:2]]:
            kept.append(token)
        else:
            problems.append(f"unknown option '{name}'{suggest(name, [key for key in known if key.startswith('--')])}")
            if "=" not in token and tokens and not tokens[0].startswith("-"):
                tokens.pop(0)
    return kept, problems


def _is_option(token: str, known: Mapping[str, bool]) -> bool:
    """Whether a token is another option rather than a value such as -1."""
    return token.split("=", 1)[0] in known or (token.startswith("--") and token != "--")


def _takes_file(command: Command, option: str) -> bool:
    name = option.lstrip("-").replace("-", "_")
    return option in {"-o", "--output"} or (name in command.lists and name != "set")


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
                *_spellings(option.name),
                help=_help(option),
                metavar=None if flag else _metavar(option),
                show_default=False,
            )
            annotation = bool if flag else (str | None)
            parameters.append(inspect.Parameter(option.name, keyword, default=default, annotation=annotation))
    for name, text in command.lists.items():
        default = typer.Option(None, _flag(name), help=text, metavar=_list_metavar(name), show_default=False)
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=list[str]))
    return inspect.Signature(parameters)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _spellings(name: str) -> tuple[str, ...]:
    return (_SHORT[name], _flag(name)) if name in _SHORT else (_flag(name),)


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
