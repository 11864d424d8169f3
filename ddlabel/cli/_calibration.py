"""How far students' confidences can be believed, as a table of `inspect`; read from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._row_tables import kind_names
from ._tables import console, percent, plain_table

__all__ = ["calibration_cells", "print_calibration"]

MOST_ROWS = 12
"""More fill a screen that says little of each."""


def print_calibration(name: str, evaluation: Mapping[str, Any]) -> None:
    """ECE and NLL of the rows of an evaluation, means over students, before and after temperature scaling.

    Args:
        name: of the evaluation, for the title.
        evaluation: its record. Nothing is printed when no row holds `calibration`; of more than `MOST_ROWS` rows only
            where their numbers are.
    """
    rows = [row for row in evaluation["results"] if "calibration" in row]
    if not rows:
        return
    if len(rows) > MOST_ROWS:
        console().print(f"{name}: calibration of {len(rows)} rows, in --json")
        return
    console().print(plain_table(f"{name}: calibration on test data, as trained and scaled", *calibration_cells(rows)))
    if any(row["calibration"]["temperature"]["mean"] is None for row in rows):
        console().print("  -: a student has no temperature: no held-out images, or its NLL has no minimum on them")


def calibration_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Columns and rows of all that hold `calibration`."""
    nets = [row["arch"] for row in rows]
    several = len(set(nets)) > 1
    columns = [("row", "left"), *([("net", "left")] if several else [])]
    columns += [(title, "right") for title in ("ECE", "scaled", "NLL", "scaled", "temperature")]
    cells = [
        [kind, *([net] if several else []), *_numbers(row["calibration"])]
        for kind, net, row in zip(kind_names(rows), nets, rows, strict=True)
    ]
    return columns, cells


def _numbers(record: Mapping[str, Any]) -> list[str]:
    """ECE as a percentage, NLL in nats, each as trained and scaled, and the temperature; dashes where there is none."""
    nll, scaled, temperature = (record[key]["mean"] for key in ("nll", "nll_scaled", "temperature"))
    return [
        percent(record["ece"]["mean"], 1),
        percent(record["ece_scaled"]["mean"], 1),
        f"{nll:.3f}",
        "-" if scaled is None else f"{scaled:.3f}",
        "-" if temperature is None else f"{temperature:.3g}",
    ]
