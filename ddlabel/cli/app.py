"""The `ddlabel` command: the one place that catches errors, prints them and chooses the exit code.

Importing this module costs typer and nothing heavier; each subcommand imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from .. import __version__
from ..errors import DdlabelError, InterruptedRunError, ResourceError, UsageError, suggest
from ._completion import VARIABLE, answer, run_completion
from ._options import Command, Line, split_unknown
from ._register import ReaderGone, register
from ._report import say
from ._signals import listening
from ._team import Told, check_command, only_first_speaks, speaker
from .augment_labels import COMMAND as AUGMENT_LABELS
from .config import COMMAND as CONFIG
from .config import dump, dumped_stage
from .demo import COMMAND as DEMO
from .distill import COMMAND as DISTILL
from .evaluate import COMMAND as EVALUATE
from .export_set import COMMAND as EXPORT
from .import_set import COMMAND as IMPORT
from .inspect import COMMAND as INSPECT
from .methods import COMMAND as METHODS
from .recipes import COMMAND as RECIPES
from .refine import COMMAND as REFINE
from .report import COMMAND as REPORT
from .train_teacher import COMMAND as TRAIN_TEACHER
from .version import COMMAND as VERSION

__all__ = ["COMMANDS", "dispatch", "main"]

COMMANDS: tuple[Command, ...] = (
    TRAIN_TEACHER,
    DISTILL,
    AUGMENT_LABELS,
    REFINE,
    EVALUATE,
    INSPECT,
    EXPORT,
    IMPORT,
    REPORT,
    DEMO,
    METHODS,
    RECIPES,
    CONFIG,
    VERSION,
)

_HELP = """Label-rich dataset distillation: distil, label, refine and score image sets, one .ddset file per stage.

\b
A pipeline, start to end:
  ddlabel train-teacher  --data digits --epochs 20 -o teacher.ddset
  ddlabel distill        --data digits --method dm --ipc 10 --set steps=200 -o base.ddset
  ddlabel augment-labels base.ddset --teacher teacher.ddset --kind dense -o dense.ddset
  ddlabel refine         dense.ddset --method gift -o gift.ddset
  ddlabel evaluate       gift.ddset --data digits --seeds 3 -o scored.ddset
  ddlabel inspect        base.ddset dense.ddset gift.ddset scored.ddset

\b
Completion of commands, options and names in bash, zsh, fish and PowerShell: ddlabel --install-completion

\b
Environment: DDLABEL_DATA_DIR (where named data sets lie), DDLABEL_CACHE_DIR (decoded images), DDLABEL_THREADS
(--threads where it is not given), NO_COLOR, SOURCE_DATE_EPOCH (fixed clock in bundles).
"""
LESS_MEMORY = {
    "train-teacher": "lower --set batch, --size or the width of --arch",
    "distill": "lower --set batch, --ipc, --size or the width of --arch",
    "augment-labels": "label fewer views: --kind soft, or a lower --grid or --set views",
    "refine": "lower --set batch or the width of --arch",
    "evaluate": "lower --set batch or the width of --arch",
    "export": "leave label kinds out, as with --labels hard",
    "import": "use a machine with more; images and labels are decoded in memory",
    "inspect": "give fewer bundles at a time",
    "report": "give fewer bundles at a time",
}
"""What to do when a command ran out of memory."""
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if VARIABLE in os.environ:
        text, code = answer(os.environ[VARIABLE], os.environ, COMMANDS)
        print(text)
        return code
    try:
        with listening():
            dispatch(given)
            if sys.stdout is not None:  # closed
                sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        _silence_stdout()
        return 141
    except KeyboardInterrupt:
        return _fail(InterruptedRunError(2), given)
    except DdlabelError as error:
        return _fail(error, given)
    except MemoryError:
        return _fail(_out_of_memory(given), given)
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # torch's words
            raise
        return _fail(_out_of_memory(given), given)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _silence_stdout()
        return _fail(ResourceError(f"cannot write: {error.strerror}", hint="free some space or write elsewhere"), given)
    return 0


def dispatch(arguments: list[str]) -> None:
    """Run one command; errors are raised, not printed."""
    by_name = {command.name: command for command in COMMANDS}
    if not arguments:
        arguments = ["--help"]
    if run_completion(arguments):
        return
    stage = dumped_stage(arguments, COMMANDS)
    arguments = arguments if stage is None else stage
    problems: list[str] = []
    name = arguments[0]
    if name in by_name:
        check_command(name)
        rest, problems = split_unknown(by_name[name], arguments[1:])
        arguments = [name, *rest]
    elif name == "--version":
        print(f"ddlabel {__version__}")
        return
    elif not name.startswith("-"):
        raise UsageError(f"unknown command '{name[:80]}'{suggest(name, by_name)}", field="command")
    elif name not in {"--help", "-h"}:
        raise UsageError(f"unknown option '{name[:80]}', expected a command first", hint="run 'ddlabel --help'")
    try:
        line = Line(problems, COMMANDS, arguments, None if stage is None else dump)
        _application()(arguments, standalone_mode=False, prog_name="ddlabel", obj=line)
    except Exception as error:
        # typer's own parse errors carry exit code 2 and a method that words them; nothing else does
        if getattr(error, "exit_code", None) == 2 and hasattr(error, "format_message"):
            raise UsageError(_lower(error.format_message())) from error
        raise


@functools.cache  # building it takes longer than most commands that read a line and answer
def _application() -> Callable[..., object]:
    app = typer.Typer(
        help=_HELP,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    for command in COMMANDS:
        register(app, command)
    return typer.main.get_command(app)


def _out_of_memory(arguments: Sequence[str]) -> ResourceError:
    """With what the command offers against it."""
    advice = LESS_MEMORY.get(arguments[0] if arguments else "", "use a machine with more")
    return ResourceError("out of memory", hint=advice)


def _fail(error: DdlabelError, arguments: Sequence[str]) -> int:
    """Print an error where its reader looks for it, and choose the exit code."""
    code = 128 + error.signum if isinstance(error, InterruptedRunError) else error.exit_code
    if "--debug" in arguments:
        traceback.print_exception(error)
    if only_first_speaks(error):
        return error.code if isinstance(error, Told) else code
    if "--json" in arguments and not speaker() and not error.reported:
        body = {"code": code, "message": error.message, "field": error.field, "hint": error.hint}
        print(json.dumps({"schema": "ddlabel.error", "version": 1, "error": body}, sort_keys=True, indent=2))
    for line in error.problems if isinstance(error, UsageError) else (str(error),):
        say(f"{speaker()}error: {_printable(line)}")
    return code


def _printable(text: str) -> str:
    from ..manifest import printable

    return printable(text)


def _lower(sentence: str) -> str:
    text = sentence.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter does not complain when it flushes at exit."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
