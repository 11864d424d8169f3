"""What a command is: its option records, and its command line as texts that are checked together.

Values arrive as text and are checked in `ddlabel.options`, so that all problems of one command line can be reported
together instead of one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError, suggest
from ..options import build, describe, opt, parse_assignments
from ..streams import is_stdout

__all__ = [
    "Command",
    "ConfigFile",
    "Invocation",
    "Line",
    "Output",
    "Processes",
    "Resume",
    "Talk",
    "flag_of",
    "known_options",
    "spellings_of",
    "split_unknown",
    "switches",
]

_SHORT = {"output": "-o", "quiet": "-q", "verbose": "-v"}


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
class Processes:
    """How many processes share the work; for the command line alone, since results do not depend on it."""

    processes: int | None = opt(
        1,
        "how many processes of this machine share the work, each with --threads threads, or else its share of the "
        "cores; auto is one for each core (or GPU, where GPUs compute), and no more than there are jobs",
        min=1,
        max=1024,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """Options in a file; a command with this record also has `--no-NAME` for every flag, which a file may set."""

    config: str | None = opt(
        None, "TOML file of options, under what is typed here and over --recipe; 'ddlabel config dump' prints one"
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
    from_file: frozenset[str] = frozenset()
    """Names of options that were not typed, but are of `--config`."""
    words: tuple[str, ...] = ()
    """The command line itself, for processes that are started with the same."""

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

    def refuse_json_among_output(self) -> None:
        """One stream cannot hold both."""
        output = self.texts.get("output")
        if self.flags.get("json") and is_stdout(output):
            self.problems.append(f"'--output {output}' and '--json' both write to stdout, expected one of them")

    def fail_if_any(self) -> None:
        """Raise everything found so far as one error."""
        if self.problems:
            raise UsageError.collect(self.problems)


@dataclasses.dataclass(frozen=True)
class Line:
    """What is known of a command line before typer parses it."""

    problems: Sequence[str] = ()
    """Found so far."""
    commands: Sequence[Command] = ()
    """All there are."""
    words: Sequence[str] = ()
    """The command and everything after it."""
    instead: Callable[[Invocation], None] | None = None
    """What runs in place of the command: it is shown what the command would have got."""


def switches(command: Command) -> dict[str, str]:
    """The spelling that switches a flag off, by the flag's name: for commands whose flags a file may switch on."""
    if ConfigFile not in command.records:
        return {}
    records = (record for record in command.records if record is not Talk)
    names = (option.name for record in records for option in describe(record) if option.type == "true|false")
    return {name: flag_of(name.removeprefix("no_") if name.startswith("no_") else f"no_{name}") for name in names}


def known_options(command: Command) -> dict[str, bool]:
    """Every spelling of the command's options, and whether it takes a value."""
    known = {"--help": False, "-h": False}
    for record in command.records:
        for option in describe(record):
            for spelling in spellings_of(option.name):
                known[spelling] = option.type != "true|false"
    known.update({flag_of(name): True for name in command.lists})
    return known


def split_unknown(command: Command, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take unknown options out of a command line, and expand options that take several values in a row.

    Returns:
        The arguments that remain, and one problem per unknown option.
    """
    known, off = known_options(command), set(switches(command).values())
    kept: list[str] = []
    problems: list[str] = []
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        name = token.split("=", 1)[0]
        if token == "--":
            return [*kept, token, *tokens], problems
        if not token.startswith("-") or token == "-" or token in off:
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
    return option in {"-o", "--output", "--config"} or (name in command.lists and name != "set")


def flag_of(name: str) -> str:
    """`max_kl` as it is typed: `--max-kl`."""
    return "--" + name.replace("_", "-")


def spellings_of(name: str) -> tuple[str, ...]:
    """All ways to type an option."""
    return (_SHORT[name], flag_of(name)) if name in _SHORT else (flag_of(name),)
