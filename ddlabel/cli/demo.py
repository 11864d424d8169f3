"""`ddlabel demo`: the whole chain on embedded digits, each command printed as a user would type it."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import DdlabelError, UsageError
from ..options import opt
from ._options import Command, Invocation, Talk
from ._report import print_json, say

__all__ = ["COMMAND", "PIPELINE"]

PIPELINE: tuple[str, ...] = (
    "train-teacher --data digits --arch convnet-d2-w32 --epochs 20 --keep 5,20 "
    "--set lr=0.05 --set momentum=0.9 -o teacher.ddset",
    "distill --data digits --method random --ipc 1 -o random.ddset",
    "distill --data digits --method dm --ipc 1 --arch convnet-d2-w32 --set steps=150 -o base.ddset",
    "augment-labels base.ddset --teacher teacher.ddset --kind soft -o soft.ddset",
    "augment-labels base.ddset --teacher teacher.ddset --kind dense --grid 3 --ratio 3/4 --codec q8 -o dense.ddset",
    "refine dense.ddset --method gift -o gift.ddset",
    "evaluate random.ddset --data digits --arch convnet-d2-w32 --seeds 3 --epochs 300 -o random-scored.ddset",
    "evaluate base.ddset --data digits --arch convnet-d2-w32 --seeds 3 --epochs 300 -o base-scored.ddset",
    "evaluate soft.ddset --data digits --arch convnet-d2-w32 --seeds 3 --epochs 300 -o soft-scored.ddset",
    "evaluate dense.ddset --data digits --arch convnet-d2-w32 --seeds 3 --epochs 300 -o dense-scored.ddset",
    "evaluate gift.ddset --data digits --arch convnet-d2-w32 --seeds 3 --epochs 300 -o gift-scored.ddset",
)
"""The commands of the demo, in order; those that end in -scored feed the table."""

STAGES = {
    "random": "random real images",
    "base": "distilled images (dm)",
    "soft": "+ soft labels",
    "dense": "+ dense labels (LADD)",
    "gift": "+ refined dense labels (GIFT)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Where the demo leaves its files."""

    folder: str | None = opt(None, "folder for the bundles; without it they are removed at the end")


def run(invocation: Invocation) -> None:
    r"""Run a whole pipeline on embedded handwritten digits: teacher, distillation, labels, refinement, scores.

    Takes about a minute on two cores, needs no network, and prints every command.

    \b
    Example:
      ddlabel demo
      ddlabel demo --folder demo-files
    """
    talk, options = invocation.record(Talk), invocation.record(DemoOptions)
    invocation.fail_if_any()
    started = time.monotonic()
    if options.folder is not None:
        folder = Path(options.folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"folder '{options.folder}' cannot be made ({error.strerror})", field="folder") from error
        rows = _run_pipeline(folder, talk)
    else:
        with tempfile.TemporaryDirectory(prefix="ddlabel-demo-") as temporary:
            rows = _run_pipeline(Path(temporary), talk)
    seconds = time.monotonic() - started
    if talk.json:
        print_json("demo", {"rows": rows, "seconds": round(seconds, 1)})
        return
    _print_rows(rows)
    print(f"{len(PIPELINE)} commands in {seconds:.0f} s. Next: 'ddlabel --help', 'ddlabel methods', docs/.")


def _run_pipeline(folder: Path, talk: Talk) -> list[dict[str, float | str]]:
    from ..bundle import Bundle

    for line in PIPELINE:
        if not talk.quiet:
            say(f"$ ddlabel {line}")
        _run_command(_inside(line, folder))
    rows: list[dict[str, float | str]] = []
    for name, meaning in STAGES.items():
        bundle = Bundle.open(folder / f"{name}-scored.ddset")
        accuracy = bundle.manifest.evaluations[-1]["results"][0]["accuracy"]
        spent = sum(
            entry["stored"]
            for entry in bundle.manifest.storage["sections"].values()
            if entry["kind"] in {"images", "labels"}
        )
        rows.append({"stage": meaning, "accuracy": accuracy["mean"], "std": accuracy["std"], "bytes": spent})
    return rows


def _run_command(arguments: Sequence[str]) -> None:
    """One command of the pipeline, in this process, its own result line left out."""
    from .app import dispatch

    try:
        dispatch([*arguments, "--quiet", "--force", "--no-fsync"])
    except DdlabelError as error:
        error.add_note(f"while running: ddlabel {shlex.join(arguments)}")
        raise


def _inside(line: str, folder: Path) -> list[str]:
    """The arguments of a command with its bundles in a folder."""
    return [str(folder / word) if word.endswith(".ddset") else word for word in shlex.split(line)]


def _print_rows(rows: Sequence[dict[str, float | str]]) -> None:
    from ._tables import console, plain_table, points, readable_bytes

    first = float(rows[0]["accuracy"])
    cells = [
        (
            str(row["stage"]),
            f"{100 * float(row['accuracy']):.1f}",
            f"{100 * float(row['std']):.1f}",
            "" if index == 0 else points(float(row["accuracy"]) - first),
            readable_bytes(float(row["bytes"])),
        )
        for index, row in enumerate(rows)
    ]
    columns = [
        ("trained on 1 image per class", "left"),
        ("accuracy %", "right"),
        ("std", "right"),
        ("gain", "right"),
        ("images + labels", "right"),
    ]
    console().print(plain_table("what each stage gained (digits, 3 students each)", columns, cells))


COMMAND = Command(name="demo", run=run, records=(DemoOptions, Talk))
