"""What a finished row of a table measured: the numbers of a scored bundle that its cells ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BundleError

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..tables._table import Row

__all__ = ["METRICS", "Measured", "Metric", "measure"]


@dataclass(frozen=True)
class Measured:
    """One number of ours."""

    mean: float
    """In the unit of the metric."""
    values: tuple[float, ...]
    """One per student, in the order of the seeds; a single one where nothing is repeated."""
    interval: float | None
    """Half width of the 95 % interval of the mean by Student's t; None for a single value."""
    stored: int | None
    """Bytes of images and labels that the students saw; None where the number is no accuracy."""


@dataclass(frozen=True)
class Metric:
    """How a kind of number is read from a bundle."""

    unit: str
    read: Callable[[Bundle, Mapping[str, Mapping[str, str]], str], Measured]


def measure(bundle: Bundle, row: Row, axes: Mapping[str, Mapping[str, str]]) -> dict[str, Measured]:
    """The numbers of a row by the label of their cell; cells that the budget leaves out are absent.

    Args:
        bundle: of the last step of the row.
        row: of a table.
        axes: as `axes_of` gives them for the budget.

    Raises:
        BundleError: the bundle does not have a number once.
    """
    metric = METRICS[row.metric]
    labels = [cell.label for cell in row.cells if _is_measured(cell.label, axes)]
    return {label: metric.read(bundle, axes, label) for label in labels}


def _is_measured(label: str, axes: Mapping[str, Mapping[str, str]]) -> bool:
    return not axes or all(part in axis for part, axis in zip(label.split("/"), axes.values(), strict=True))


def _accuracy(bundle: Bundle, axes: Mapping[str, Mapping[str, str]], label: str) -> Measured:
    """Test accuracy in percent of the row of the evaluation that the label's parts name."""
    wanted = (
        {axis: options[part] for (axis, options), part in zip(axes.items(), label.split("/"), strict=True)}
        if axes
        else {}
    )
    wanted.setdefault("images", "bundle")
    found = [result for result in bundle.manifest.evaluations[-1]["results"] if _fits(result, wanted)]
    if len(found) != 1:
        raise BundleError(f"{bundle.name}: {len(found)} results are of {wanted}, expected one")
    accuracy = found[0]["accuracy"]
    values = tuple(100 * value for value in accuracy["values"])
    interval = None if accuracy["ci95"] is None else 100 * accuracy["ci95"]
    return Measured(100 * accuracy["mean"], values, interval, found[0]["stored_bytes"])


def _mean_accuracy(bundle: Bundle, _axes: Mapping[str, Mapping[str, str]], _label: str) -> Measured:
    """Test accuracy in percent, mean over all nets, seed by seed: the last column of tables of several nets."""
    evaluation = bundle.manifest.evaluations[-1]
    found = [entry for entry in evaluation.get("summary", ()) if entry["images"] == "bundle"]
    if len(found) != 1:
        raise BundleError(f"{bundle.name}: {len(found)} means over nets, expected one")
    accuracy = found[0]["accuracy"]
    values = tuple(100 * value for value in accuracy["values"])
    interval = None if accuracy["ci95"] is None else 100 * accuracy["ci95"]
    stored = next(result["stored_bytes"] for result in evaluation["results"] if result["images"] == "bundle")
    return Measured(100 * accuracy["mean"], values, interval, stored)


def _fits(result: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    from ..nets._net import canonical

    has = {
        "arch": result["arch"],
        "images": result["images"],
        "labels": result["labels"],
        "loss": result["loss"]["name"],
        "optimizer": result["recipe"]["optimizer"],
    }
    return all(has[axis] == (canonical(value) if axis == "arch" else value) for axis, value in wanted.items())


def _flops(stage: str, part: str) -> Callable[[Bundle, Mapping[str, Mapping[str, str]], str], Measured]:
    def read(bundle: Bundle, _axes: Mapping[str, Mapping[str, str]], _label: str) -> Measured:
        entries = [entry for entry in bundle.manifest.history if entry["stage"] == stage]
        if not entries:
            raise BundleError(f"{bundle.name}: no stage '{stage}' in its history")
        spent = entries[-1]["metrics"]["flops"][part] / 1e15
        return Measured(spent, (spent,), None, None)

    return read


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("%", _accuracy),
    "mean-accuracy": Metric("%", _mean_accuracy),
    "labelling": Metric("PFLOP", _flops("augment-labels", "labelling")),
    "deployment": Metric("PFLOP", _flops("evaluate", "students")),
}
"""Kinds of numbers by the name that a row's `metric` gives."""
