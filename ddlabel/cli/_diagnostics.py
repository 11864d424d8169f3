"""The numbers of `evaluate --diagnose` as tables; read from the manifest alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ._tables import console, plain_table

__all__ = ["BASES", "alignment_cells", "measure_cells", "print_diagnostics"]

MEASURES = {
    "fisher_ratio": ("Fisher ratio", "variance between over within classes"),
    "between_variance": ("variance between classes", "in squared units of the labels"),
    "nearest_mean_accuracy": ("nearest class mean", "accuracy by means of real features"),
    "head_accuracy": ("refitted head", "accuracy of a head on real features"),
    "head_cross_entropy": ("refitted head, cross entropy", "nats; less is better"),
    "within_class_spread": ("1 - cos within classes", "0 all alike, 1 unrelated"),
    "effective_rank": ("effective rank", "directions of variance, 1 to images - 1"),
    "vendi": ("Vendi score", "kinds of labels, 1 to images"),
    "uniformity": ("uniformity", "0 all alike, about -4 spread over the sphere"),
    "deviation": ("standard deviation", "of an element over images"),
}
"""Rows: name and what it says."""
BASES = {
    "teachers": "means and heads are of features of the teachers that made the labels",
    "held-out nets": "means and heads are of features of held-out nets, in another basis than the labels: expect "
    "chance; --teacher gives their own where teachers gave the labels",
}
VARIANTS = {"none": "no labels", "noise": "noise", "labels": "labels"}


def print_diagnostics(name: str, evaluation: Mapping[str, Any]) -> None:
    """The tables of an evaluation whose labels were diagnosed: measures beside noise, and alignment of gradients.

    Args:
        name: of the evaluation, for the titles.
        evaluation: its record; nothing is printed when it holds no `diagnostics`.
    """
    record = evaluation.get("diagnostics")
    if record is None:
        return
    out, form = console(), record["form"]
    of = f"{form['attention']} attention" if form["attention"] else "feature"
    shape = "x".join(str(side) for side in form["shape"])
    title = f"{name}: {record['mode']} {of} labels, {shape}, layer {form['layer']} of {form['arch']}"
    out.print(plain_table(title, *measure_cells(record)))
    out.print("  " + BASES[record["told_apart_by"]], overflow="fold")
    setting, scale = record["setting"], record["scale"]
    title = f"{name}: gradients against those of real images, {setting['nets']} + {setting['nets']} held-out nets"
    out.print(plain_table(title, *alignment_cells(record)))
    pull = f"{_number(scale['rho'])} times as strongly as classes on fresh nets"
    out.print(f"  lambda_reg {scale['lambda_reg']:g}: labels pull {pull}", overflow="fold")
    if scale["warning"]:
        out.print(f"  {scale['warning']}", overflow="fold")


def measure_cells(record: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Columns and rows of what was measured of the labels, beside noise."""
    ours, noise = record["measures"]["labels"], record["measures"]["noise"]
    rows = [[said, _number(ours[key]), _number(noise[key]), what] for key, (said, what) in MEASURES.items()]
    return [("measure", "left"), ("labels", "right"), ("noise", "right"), ("", "left")], rows


def alignment_cells(record: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Columns and rows of how gradients of students go with those of real images."""
    columns = [("trained with", "left")]
    for when in ("at init", f"after {record['setting']['steps']} real steps"):
        columns += [(f"cosine {when}", "right"), (f"distance {when}", "right")]
    return columns, [[said, *_aligned(record["alignment"][key])] for key, said in VARIANTS.items()]


def _aligned(stages: Mapping[str, Any]) -> list[str]:
    """Cosine with the standard error over nets, and distance, at init and after."""
    cells = []
    for name in ("init", "trained"):
        stage = stages[name]
        cells += [f"{stage['cosine']:.3f}{_error(stage['cosine_by_net'])}", _number(stage["distance"])]
    return cells


def _error(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    mean = sum(values) / len(values)
    return f" ± {math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)):.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
