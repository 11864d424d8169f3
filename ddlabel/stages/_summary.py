"""Over nets: what every row kind comes to when several architectures were trained (4-CAE, 5-CAE and their like)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..scores import summarise
from ._trials import add_differences

__all__ = ["DIFFERENCES", "summaries_over_nets"]

DIFFERENCES = ("bundle_minus_this", "first_loss_minus_this", "privileged_minus_this")
"""What `add_differences` gives to rows."""


def summaries_over_nets(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per row kind of an evaluation with several nets; none for a single net. Accuracies are fractions.

    `mean`: of the means of the nets. `average_std`: the mean of the nets' sample standard deviations over seeds, the
    "±" of LADD's tables (arXiv:2409.16239); None for one seed. `std_over_nets`: the sample standard deviation of the
    nets' means. `nets`: these means by net. Paired differences, as rows have them, are of accuracies averaged over
    nets, seed by seed.

    Args:
        results: rows net by net, the same kinds in the same order for each.
    """
    nets: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        nets.setdefault(result["arch"], []).append(result)
    if len(nets) < 2:
        return []
    entries = [_over_nets(rows) for rows in zip(*nets.values(), strict=True)]
    add_differences(entries)
    return [{name: value for name, value in entry.items() if name not in {"arch", "recipe"}} for entry in entries]


def _over_nets(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, scores = rows[0], [row["accuracy"] for row in rows]
    means, stds = [score["mean"] for score in scores], [score["std"] for score in scores]
    rates = {row["recipe"]["lr"] for row in rows}
    runs = [statistics.fmean(run) for run in zip(*(score["values"] for score in scores), strict=True)]
    return {
        "images": first["images"],
        "labels": first["labels"],
        "loss": first["loss"],
        "optimizer": first["recipe"]["optimizer"],
        "lr": first["recipe"]["lr"] if len(rates) == 1 else None,
        "nets": {row["arch"]: mean for row, mean in zip(rows, means, strict=True)},
        "mean": statistics.fmean(means),
        "average_std": None if None in stds else statistics.fmean(stds),
        "std_over_nets": statistics.stdev(means),
        "accuracy": summarise(runs),
        "arch": "",
        "recipe": first["recipe"],
    }
