"""Tables beside the scores: class-incremental steps, and means over nets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Rows", "groups_of", "kind_names", "steps_tables", "summary_cells"]

Rows = Sequence[Mapping[str, Any]]
Cells = tuple[list[tuple[str, str]], list[list[str]]]
"""Columns with their sides, and the rows under them."""


def groups_of(results: Rows) -> dict[int | None, list[Mapping[str, Any]]]:
    """Rows, or entries over nets, that may stand in one table: by number of class-incremental steps, None without."""
    groups: dict[int | None, list[Mapping[str, Any]]] = {}
    for result in results:
        steps = result.get("steps", (result.get("incremental") or {}).get("steps"))
        groups.setdefault(steps, []).append(result)
    return groups


def kind_names(rows: Rows) -> list[str]:
    """What each row of one net is called, in as few words as tell them apart: images, labels, loss, optimiser."""
    settings = [_setting(row) for row in rows]
    several = len(set(settings)) > 1
    return [
        f"{row['images']}, {row['labels']}, {row['loss']['name']}" + (f", {setting}" if several else "")
        for row, setting in zip(rows, settings, strict=True)
    ]


def steps_tables(rows: Rows, difference: Callable[[Mapping[str, Any]], str]) -> Iterator[tuple[str, Cells]]:
    """For rows of one number of steps, net by net: accuracies step by step, and paired differences where there are any.

    Args:
        rows: with their curves.
        difference: the cell of the paired difference that a row or step has, empty without one.
    """
    nets = list(dict.fromkeys(row["arch"] for row in rows))
    for net in nets:
        own = [row for row in rows if row["arch"] == net]
        curves = [row["incremental"]["curve"] for row in own]
        names = kind_names(own)
        columns = [(name, "right") for name in ("classes", "images", *names)]
        where = f", {net}" if len(nets) > 1 else ""
        cells = [
            [*_memory([curve[step] for curve in curves]), *(_spread(curve[step]["accuracy"]) for curve in curves)]
            for step in range(len(curves[0]))
        ]
        yield f"accuracy % and std after each of {len(curves[0])} steps{where}", (columns, cells)
        compared = [index for index, curve in enumerate(curves) if difference(curve[0])]
        if compared:
            cells = [
                [str(curves[0][step]["classes"]), *(difference(curves[index][step]) for index in compared)]
                for step in range(len(curves[0]))
            ]
            columns = [("classes", "right"), *((names[index], "right") for index in compared)]
            yield f"bundle − row after each of {len(curves[0])} steps{where}, points", (columns, cells)


def summary_cells(entries: Rows, difference: Callable[[Mapping[str, Any]], str]) -> Cells:
    """Means over nets, one line per row kind."""
    compared = any(difference(entry) for entry in entries)
    columns = [
        ("row", "left"),
        ("mean %", "right"),
        ("± (mean of stds)", "right"),
        ("std over nets", "right"),
        *([("bundle − row", "right")] if compared else []),
    ]
    rows = [
        [
            name,
            f"{100 * entry['mean']:.2f}",
            "-" if entry["average_std"] is None else f"{100 * entry['average_std']:.2f}",
            f"{100 * entry['std_over_nets']:.2f}",
            *([difference(entry)] if compared else []),
        ]
        for name, entry in zip(kind_names(entries), entries, strict=True)
    ]
    return columns, rows


def _setting(row: Mapping[str, Any]) -> str:
    recipe = row.get("recipe", row)
    return str(recipe["optimizer"]) + ("" if recipe["lr"] is None else f" {recipe['lr']:g}")


def _memory(points: Rows) -> list[str]:
    """Classes so far, and images in memory."""
    counts = sorted({count for point in points for count in point["images"]})
    return [str(points[0]["classes"]), str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"]


def _spread(score: Mapping[str, Any]) -> str:
    return f"{100 * score['mean']:.1f}" + ("" if score["std"] is None else f" ± {100 * score['std']:.1f}")
