"""Tables on stdout: what a person reads. Drawn with rich; the same text at a fixed width in pipes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..manifest import printable
from ._report import terminal_width
from ._row_tables import groups_of, steps_tables, summary_cells

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "adapter_line",
    "console",
    "gain",
    "optimizer_cells",
    "percent",
    "plain_table",
    "points",
    "print_evaluations",
    "readable_bytes",
    "score_cells",
]


DIFFERENCES = (
    ("bundle_minus_this", ""),
    ("first_loss_minus_this", " (loss)"),
    ("privileged_minus_this", " (labels)"),
    ("online_minus_this", " (online)"),
)
"""Paired differences of a result, and what their cells say they are of."""


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
    """The scores of one or several evaluations, one row per net, loss, optimiser and training set.

    Of class-incremental ones a table for each number of steps, with accuracies step by step; of several nets also what
    each kind of row comes to over nets.
    """
    for name, evaluation in scored:
        summaries = groups_of(evaluation.get("summary", ()))
        for steps, results in groups_of(evaluation["results"]).items():
            _print_rows(name, evaluation, results)
            if steps is not None:
                for title, cells in steps_tables(results, gain):
                    console().print(plain_table(title, *cells))
            if steps in summaries:
                title = f"over {len(summaries[steps][0]['nets'])} nets: accuracy %"
                console().print(plain_table(title, *summary_cells(summaries[steps], gain)))
        if "online" in evaluation:
            console().print("not compliant: a live teacher answered every batch of the rows with 'online' labels")
        for steps, entries in groups_of(evaluation.get("optimizers", ())).items():
            console().print(plain_table(*optimizer_cells(entries, steps)))


def _print_rows(name: str, evaluation: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """The table of some rows of an evaluation, and what must be said of single ones."""
    compared = any(key in result for result in results for key, _of in DIFFERENCES)
    optimizers = {(result["recipe"]["optimizer"], result["recipe"]["lr"]) for result in results}
    nets = list(dict.fromkeys(result["arch"] for result in results))
    steps = (results[0].get("incremental") or {}).get("steps")
    columns = [
        ("images", "left"),
        ("labels", "left"),
        ("loss", "left"),
        *([("net", "left")] if len(nets) > 1 else []),
        *([("optimiser", "left")] if len(optimizers) > 1 else []),
        ("accuracy %", "right"),
        *([] if "privileged" in evaluation else [("std", "right")]),
        ("± 95 %", "right"),
        *([("seen only %", "right")] if steps else []),
        ("n", "right"),
        *([("bundle − row", "right")] if compared else []),
        *([("bytes", "right")] if "privileged" in evaluation else []),
    ]
    rows = [[score_cells(evaluation, result)[column] for column, _side in columns] for result in results]
    net = f", {nets[0]}" if len(nets) == 1 else ""
    what = f"mean over {steps} class-incremental steps" if steps else "test accuracy"
    title = f"{name}: {what}, protocol {evaluation['protocol']}{net}, last epoch"
    console().print(plain_table(title, columns, rows))
    if steps and any(result["incremental"]["leaks_future_classes"] for result in results):
        console().print("labels at full width (future=full): they tell students of classes to come")
    for result in results:
        if "features" in result:
            console().print(adapter_line(result))
        if result.get("images_tuned") is False:
            console().print(f"{result['images']}: images by the method alone, the bundle's were tuned beside labels")


def score_cells(evaluation: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, str]:
    """Everything a table can say of one row, by the name of its column."""
    accuracy, recipe = result["accuracy"], result["recipe"]
    kind, plus, beside = result["labels"].partition("+")
    if evaluation.get("refined") and kind == evaluation["labels"].partition("+")[0]:
        kind += f" ({evaluation['refined'].get('method', 'refined')})"
    return {
        "images": result["images"],
        "labels": f"{kind} {plus}{beside}".rstrip(),
        "loss": result["loss"]["name"],
        "net": result["arch"],
        "optimiser": f"{recipe['optimizer']} {recipe['lr']:g}",
        "accuracy %": f"{100 * accuracy['mean']:.2f}",
        "std": "-" if accuracy["std"] is None else f"{100 * accuracy['std']:.2f}",
        "± 95 %": "-" if accuracy["ci95"] is None else f"{100 * accuracy['ci95']:.2f}",
        "seen only %": f"{100 * result['seen_only']['mean']:.2f}" if "seen_only" in result else "",
        "n": str(accuracy["n"]),
        "bundle − row": gain(result),
        "bytes": readable_bytes(result["stored_bytes"]),
    }


def gain(result: Mapping[str, Any]) -> str:
    """The paired difference to this row: of the bundle or, on the bundle's own rows, of its first loss or labels."""
    for key, of in DIFFERENCES:
        difference = result.get(key)
        if difference is not None:
            error = difference["standard_error"]
            spread = "" if error is None else f" ± {100 * error:.1f}"
            return points(difference["mean"]) + spread + of
    return ""


def adapter_line(result: Mapping[str, Any]) -> str:
    """How the features of a row's students were compared with labels, and how near they came."""
    said, adapter = result["features"], "no adapter"
    if said["adapter"] != "none":
        trained = f"{said['adapter_parameters']} parameters, thrown away, " if said["adapter_parameters"] else ""
        adapter = f"{said['adapter']} adapter ({trained}norm {fmean(said['adapter_norm']):.3g})"
    row = ", ".join((result["images"], result["labels"], result["loss"]["name"], result["arch"]))
    return f"{row}: layer {said['layer']}, {adapter}, final MSE {fmean(said['mse']):.3g}"


def optimizer_cells(
    entries: Sequence[Mapping[str, Any]], steps: int | None
) -> tuple[str, list[tuple[str, str]], list[list[str]]]:
    """How much each loss depends on the optimiser, over so many class-incremental steps: title, columns, rows."""
    optimizers = list(dict.fromkeys(name for entry in entries for name in entry["best"]))
    nets = {entry["arch"] for entry in entries}
    keys = ["images", "labels", "loss", *(["arch"] if len(nets) > 1 else [])]
    columns = [(key, "left") for key in keys]
    columns += [(name, "right") for name in (*optimizers, "mean", "least", "robustness gap")]
    rows = [
        [
            *(entry[key] for key in keys),
            *(_range(entry["worst"].get(name), entry["best"].get(name)) for name in optimizers),
            *(f"{100 * entry[key]:.2f}" for key in ("mean", "least", "robustness_gap")),
        ]
        for entry in entries
    ]
    over = "" if steps is None else f", {steps} steps"
    return f"over optimisers{over}: accuracy % at the worse and the better step size", columns, rows


def _range(worst: float | None, best: float | None) -> str:
    if worst is None or best is None:
        return "-"
    return f"{100 * best:.2f}" if worst == best else f"{100 * worst:.2f} to {100 * best:.2f}"
