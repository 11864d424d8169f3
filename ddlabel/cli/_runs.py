"""`ddlabel recipes run`: the commands of rows of published tables, and a line in a file of results for each number."""

from __future__ import annotations

import contextlib
import functools
import io
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundleError, DdlabelError, InterruptedRunError
from ..tables._table import Row, Step, axes_of, steps_of
from ._options import Resume
from ._report import say

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["RESULTS", "run_row", "script_of"]

RESULTS = "results.jsonl"
"""Name of the file of results in the folder of the bundles."""


def script_of(rows: Sequence[Row], budget: str, use: Mapping[str, str], more: Sequence[str]) -> Iterator[str]:
    """The commands of rows as lines of a shell script; those that rows share come once."""
    done: set[str] = set()
    for row in rows:
        yield f"# {row.full_name}"
        for step in steps_of(row, budget, use, more):
            if step.file not in done:
                yield shlex.join(["ddlabel", *step.line])
            done.add(step.file)


def run_row(
    row: Row, budget: str, use: Mapping[str, str], more: Sequence[str], folder: Path, *, quiet: bool
) -> list[dict[str, Any]]:
    """Run what is not there yet of a row's commands and read its numbers.

    Args:
        row: that nothing is missing for.
        budget: one of `BUDGETS`.
        use: where the user has data sets and what else rows need.
        more: words that every command gets.
        folder: of the bundles; a step that is there is not done again, one that was stopped goes on.
        quiet: say nothing of the commands.

    Returns:
        One record per cell, ready for the file of results.
    """
    from ..bundle import Bundle
    from ._measure import METRICS, measure

    commit = _commit()
    steps = steps_of(row, budget, use, more)
    files = frozenset(step.file for step in steps)
    for step in steps:
        _run_step(step, folder, files, quiet=quiet)
    bundle = Bundle.open(folder / steps[-1].file)
    found = measure(bundle, row, axes_of(row, budget))
    published = {cell.label: cell.published for cell in row.cells}
    shared = {**_provenance(bundle, row, steps, use), "commit": commit, "seconds": _seconds(steps, folder)}
    return [
        {
            "row": row.full_name,
            "cell": label,
            "budget": budget,
            "unit": METRICS[row.metric].unit,
            "published": published[label],
            "ours": round(each.mean, 6),
            "n": len(each.values),
            "interval": None if each.interval is None else round(each.interval, 6),
            "values": [round(value, 6) for value in each.values],
            "stored_bytes": each.stored,
            **shared,
        }
        for label, each in found.items()
    ]


def _run_step(step: Step, folder: Path, files: frozenset[str], *, quiet: bool) -> None:
    """One command in this process, its own result left out.

    Raises:
        BundleError: there is a bundle of that name that another command has made.
    """
    from .app import COMMANDS, dispatch

    target = folder / step.file
    inputs = [folder / word for word in step.line[:-1] if word in files]
    if _is_there(target, step, inputs):
        return
    words = [str(folder / word) if word in files else word for word in step.line]
    resumes = any(command.name == words[0] and Resume in command.records for command in COMMANDS)
    again = [*(["--force"] if target.exists() else []), *(["--resume"] if resumes else [])]
    if not quiet:
        say(f"$ ddlabel {shlex.join(step.line)}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            dispatch([*words, "--quiet", *again])
    except InterruptedRunError as error:
        raise InterruptedRunError(error.signum, error.message, hint="the same command goes on from here") from error
    except DdlabelError as error:
        error.add_note(f"while running: ddlabel {shlex.join(step.line)}")
        raise


def _is_there(path: Path, step: Step, inputs: Sequence[Path]) -> bool:
    """Whether a step is done; a file that is no bundle is done again.

    Raises:
        BundleError: the bundle is of another stage, or of other inputs, than the step.
    """
    from ..bundle import Bundle

    if not path.exists():
        return False
    try:
        bundle = Bundle.open(path)
    except BundleError:
        return False
    last = bundle.manifest.history[-1]
    known = {entry["content"] for entry in last["inputs"]}
    if last["stage"] != step.line[0] or not {Bundle.open(file).content for file in inputs} <= known:
        raise BundleError(
            f"'{path}' is not what 'ddlabel {shlex.join(step.line)}' makes: its stage or its inputs are others",
            hint="remove it, or give another --folder",
        )
    return True


def _seconds(steps: Sequence[Step], folder: Path) -> float:
    """What all commands of a row took, those that it shares with others too."""
    from ..bundle import Bundle

    histories = [Bundle.open(folder / step.file).manifest.history for step in steps]
    return round(sum(float(history[-1]["time"]["seconds"]) for history in histories), 1)


def _provenance(bundle: Bundle, row: Row, steps: Sequence[Step], use: Mapping[str, str]) -> dict[str, Any]:
    """What made a number: data, commands, machine, version."""
    history = bundle.manifest.history
    places = {place: name for name, place in use.items()}
    commands = [
        shlex.join(["ddlabel", *(places.get(word, word) for word in step.words), "-o", step.output]) for step in steps
    ]
    tests = [evaluation["test"]["name"] for evaluation in bundle.manifest.evaluations]
    return {
        "data": tests[-1] if tests else row.data,
        "stands_for": row.data,
        "compliant": bundle.manifest.evaluations[-1]["assumption_compliant"] if tests else None,
        "digest": bundle.content,
        "commands": commands,
        "host": history[-1]["host"],
        "seeds": bundle.manifest.evaluations[-1]["seeds"] if tests else [history[-1]["seed"]],
    }


@functools.cache
def _commit() -> str | None:
    """Of the sources that run, when the first row begins; None where they are no checkout, `-dirty` where changed."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        _ask(git, "ls-files", "--error-unmatch", __file__)
        return _ask(git, "describe", "--always", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _ask(git: str, *words: str) -> str:
    command = [git, "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
