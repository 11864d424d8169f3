"""Completion of words in bash, zsh, fish and PowerShell: commands, options and names they take, without torch.

The scripts are typer's. They call the command with `_DDLABEL_COMPLETE` set, and `answer` prints what may follow; where
nothing is printed, shells complete names of files.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from .. import _plugins
from ..errors import UsageError
from ._config_file import stage_commands
from ._options import Command, known_options

__all__ = ["VARIABLE", "answer", "candidates", "run_completion"]

VARIABLE = "_DDLABEL_COMPLETE"
"""Set by the scripts to `complete_` and the name of the shell."""
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
POWER = SHELLS[-2:]
INSTALL, SHOW = "--install-completion", "--show-completion"
TOP = ("--help", "--version", INSTALL, SHOW)

OWN_ROOMS: Mapping[str, Mapping[str, str]] = {
    "method": {name: name for name in ("distill", "refine")},
    "format": {"export": "exporters", "import": "importers"},
}
"""Options whose values are plugins of a room that depends on the command."""
ROOMS: Mapping[str, str] = {
    "arch": "nets",
    "codec": "codecs",
    "data": "data",
    "kind": "labels",
    "labels": "labels",
    "loss": "losses",
    "protocol": "protocols",
}
"""The others, and their room."""
EXTRA: Mapping[str, tuple[str, ...]] = {
    "codec": ("auto",),
    "constants": ("cifar10", "cifar100", "fashion-mnist", "mnist", "stl10", "svhn"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "format": ("auto",),
    "labels": ("hard",),
    "loss": ("native",),
}
"""Values that are no plugins."""
PATHS = ("folder", "npz")
"""Data that need a path, which follows a colon."""


def run_completion(arguments: Sequence[str]) -> bool:
    """`--install-completion [SHELL]` and `--show-completion [SHELL]`; False for any other command line.

    Raises:
        UsageError: a shell that is not known.
    """
    if not arguments or arguments[0] not in {INSTALL, SHOW}:
        return False
    from typer._completion_shared import get_completion_script, install

    shell = arguments[1] if len(arguments) > 1 else PurePath(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise UsageError(
            f"shell '{shell[:80]}' is unknown, expected one of {', '.join(SHELLS)}",
            hint=f"name it: {arguments[0]} bash",
        )
    if arguments[0] == SHOW:
        print(get_completion_script(prog_name="ddlabel", complete_var=VARIABLE, shell=shell))
    elif shell in POWER:  # typer would loosen the execution policy of the user
        raise UsageError(
            "PowerShell takes completion from the profile, which is yours to change",
            hint=f"ddlabel {SHOW} {shell} >> $PROFILE",
        )
    else:
        _shell, path = install(shell=shell, prog_name="ddlabel", complete_var=VARIABLE)
        print(f"completion for {shell} is in {path}; it works in new shells")
    return True


def answer(instruction: str, environ: Mapping[str, str], commands: Sequence[Command]) -> tuple[str, int]:
    """What the command prints for a script, and its exit code.

    Args:
        instruction: value of the variable, such as `complete_bash`.
        environ: holds the words typed so far, as each script passes them.
        commands: all there are.
    """
    shell = instruction.partition("_")[2]
    words = _words(shell, environ)
    found = candidates(words[:-1], words[-1], commands)
    if shell == "zsh":
        listed = "\n".join(f'"{_escaped(word)}"' for word in found)
        return (f"_arguments '*: :(({listed}))'" if found else "_files"), 0
    if shell == "fish" and environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        return "", 0 if found else 1
    if shell in POWER:  # a word and what is said of it
        return "\n".join(f"{word}::: " for word in found), 0
    return "\n".join(found), 0


def candidates(words: Sequence[str], incomplete: str, commands: Sequence[Command]) -> list[str]:
    """What the last word may become.

    Args:
        words: after the name of the program, whole ones.
        incomplete: the last one, maybe empty.
        commands: all there are.
    """
    by_name, stages = {command.name: command for command in commands}, stage_commands(commands)
    if words[:1] == ["config"]:
        if len(words) < 3:
            return _starting(incomplete, ("dump",) if len(words) == 1 else stages)
        words = words[2:]
    if not words:
        return _starting(incomplete, TOP if incomplete.startswith("-") else by_name)
    command = by_name.get(words[0])
    if command is None:
        return []
    known = known_options(command)
    option, equals, value = incomplete.partition("=")
    if equals and known.get(option):
        return [f"{option}={found}" for found in _values(command, option, value)]
    if len(words) > 1 and known.get(words[-1]):
        return _values(command, words[-1], incomplete)
    if incomplete.startswith("-") or (command.files is None and not incomplete):
        return _starting(incomplete, (name for name in known if name.startswith("--")))
    return _starting(incomplete, _positional(command))


def _positional(command: Command) -> Iterable[str]:
    """Words without an option; of most commands they are files, which shells know better."""
    if command.name == "methods":
        from . import methods

        plugins = (name for room in methods.ROOMS for name in _plugins.names(room))
        return {methods.TEACHER, methods.EVALUATE, *plugins}
    return _recipes() if command.name == "recipes" else ()


def _values(command: Command, option: str, incomplete: str) -> list[str]:
    """Values of an option; of a list, what its last item may become."""
    name = option.lstrip("-").replace("-", "_")
    fields = {field.name: field for record in command.records for field in dataclasses.fields(record)}
    if name not in fields:
        return []
    known = {*EXTRA.get(name, ()), *(fields[name].metadata.get("choices") or ())}
    room = OWN_ROOMS[name].get(command.name) if name in OWN_ROOMS else ROOMS.get(name)
    if room is not None:
        known |= {f"{found}:" if name == "data" and found in PATHS else found for found in _plugins.names(room)}
    if name == "recipe":
        known |= set(_recipes(command.name))
    before, comma, last = (
        incomplete.rpartition(",") if str(fields[name].type).startswith("tuple") else ("", "", incomplete)
    )
    return [f"{before}{comma}{found}" for found in _starting(last, known)]


def _recipes(stage: str | None = None) -> tuple[str, ...]:
    """Names of recipes, of those that speak of a stage."""
    from ..recipes import load_recipe, recipe_names

    return tuple(name for name in recipe_names() if stage is None or stage in load_recipe(name).stages)


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    return sorted(word for word in words if word.startswith(incomplete))


def _words(shell: str, environ: Mapping[str, str]) -> list[str]:
    """Words after the program, the last one maybe empty."""
    if shell == "bash":
        return _bash_words(environ)
    words = _typed_words(environ.get("_TYPER_COMPLETE_ARGS", ""))
    if shell in POWER and not environ.get("_TYPER_COMPLETE_WORD_TO_COMPLETE") and words[-1]:
        return [*words, ""]  # the line has no space at its end, and no word was begun
    return words


def _bash_words(environ: Mapping[str, str]) -> list[str]:
    """Words after the program up to the cursor; bash cuts them at `=`, which is put together again."""
    words, at = environ.get("COMP_WORDS", "").split("\n"), environ.get("COMP_CWORD", "")
    words = [*words, ""][1 : int(at) + 1 if at.isdecimal() else None]
    if words and words[-1] == "=":
        words[-1] = ""
    elif len(words) > 1 and words[-2] == "=":
        del words[-2]
    return words or [""]


def _typed_words(line: str) -> list[str]:
    """Words of zsh and fish, which give the line up to the cursor."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    return [*words[1:], *([""] if not line or line[-1].isspace() or len(words) < 2 else [])]


def _escaped(word: str) -> str:
    return word.replace(":", "\\\\:")
