"""The scores of `evaluate --protocol ddranking` as a table; read from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._tables import console, plain_table

__all__ = ["chosen_rates", "print_ranking", "ranking_cells"]

SCORES = {
    "hlr": ("HLR, points", "what hard labels lose to all real data; less is better"),
    "ior": ("IOR, points", "what images gain over random ones, treated alike"),
    "lrs": ("LRS", "both at once; 0.2689 is even with real data and random"),
    "ars": ("ARS", "IOR with and without augmentation; 0.2689 is even"),
}
"""Rows: name and what it says."""
POINTS = ("hlr", "ior")


def print_ranking(name: str, evaluation: Mapping[str, Any]) -> None:
    """The four scores of every net, HLR and IOR first; nothing when the evaluation holds no `ranking`."""
    for entry in evaluation.get("ranking", ()):
        console().print(plain_table(f"{name}: DD-Ranking, {entry['arch']}", *ranking_cells(entry)))
        console().print(f"  {chosen_rates(entry)}")


def ranking_cells(entry: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Columns and rows of one net's scores."""
    rows = []
    for key, (title, what) in SCORES.items():
        score = entry[key]
        if score is None:
            rows.append([title, "-", "-", "-", "students are not augmented"])
            continue
        scale, digits = (100, 1) if key in POINTS else (1, 4)
        spread = "-" if score["std"] is None else f"{scale * score['std']:.{digits}f}"
        rows.append([title, f"{scale * score['mean']:.{digits}f}", spread, str(score["n"]), what])
    return [("score", "left"), ("mean", "right"), ("std", "right"), ("n", "right"), ("", "left")], rows


def chosen_rates(entry: Mapping[str, Any]) -> str:
    """How one net's students were trained, where the scores leave it open."""
    rates = ", ".join(f"{mode} {choice['lr']:g}" for mode, choice in entry["rates"].items())
    return f"learning rates, chosen on held-out images: {rates}; real data: {entry['options']['real_epochs']} epochs"
