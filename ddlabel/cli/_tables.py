"""Tables on stdout: what a person reads. Drawn with rich; the same text at a fixed width in pipes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..manifest import printable
from ._report import terminal_width

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["console", "percent", "plain_table", "points", "print_evaluations", "readable_bytes"]


def console() -> Console:
    """Stdout for tables; colour only on a terminal, never when NO_COLOR is set."""
    from rich.console import Console

    class Quiet(Console):
        """Leaves a reader that went away to the one place that handles it."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Quiet(
        width=terminal_width(sys.stdout),
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
        legacy_windows=False,
    )


def plain_table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose columns are (name, `left` or `right`); cells are escaped."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(title)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def readable_bytes(count: float) -> str:
    """Bytes with a decimal unit: 512 B, 30.7 kB, 1.21 MB."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
    raise AssertionError("unreachable: the last unit returns")


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as a percentage, or a dash."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def points(fraction: float | None) -> str:
    """A difference of accuracies in percentage points, signed, or a dash."""
    return "-" if fraction is None else f"{100 * fraction:+.1f}"


def print_evaluations(scored: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """The scores of one or several evaluations, one row per net and training set."""
    for name, evaluation in scored:
        compared = any("bundle_minus_this" in result for result in evaluation["results"])
        columns = [
            ("images", "left"),
            ("labels", "left"),
            ("loss", "left"),
            ("net", "left"),
            ("accuracy %", "right"),
            ("std", "right"),
            ("± 95 %", "right"),
            ("n", "right"),
            *([("bundle − row", "right")] if compared else []),
        ]
        rows = [_score_cells(evaluation, result)[: len(columns)] for result in evaluation["results"]]
        console().print(
            plain_table(f"{name}: test accuracy, protocol {evaluation['protocol']}, last epoch", columns, rows)
        )


def _score_cells(evaluation: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = result["accuracy"]
    difference = result.get("bundle_minus_this")
    gain = "" if difference is None else points(difference["mean"])
    if difference is not None and difference["standard_error"] is not None:
        gain += f" ± {100 * difference['standard_error']:.1f}"
    labels = result["labels"]
    if evaluation.get("refined") and labels == evaluation["labels"]:
        labels += f" ({evaluation['refined'].get('method', 'refined')})"
    return (
        result["images"],
        labels,
        result["loss"]["name"],
        result["arch"],
        f"{100 * accuracy['mean']:.2f}",
        "-" if accuracy["std"] is None else f"{100 * accuracy['std']:.2f}",
        "-" if accuracy["ci95"] is None else f"{100 * accuracy['ci95']:.2f}",
        str(accuracy["n"]),
        gain,
    )
