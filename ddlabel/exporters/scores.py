"""The scores of a bundle as CSV, one line per row of an evaluation; accuracies are fractions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import UsageError
from ._exporter import Content, Description, Exporter, Open

__all__ = ["COLUMNS", "EXPORTER"]

COLUMNS = (
    "evaluation", "protocol", "arch", "images", "labels", "loss", "optimizer", "steps", "mean", "std", "ci95", "n",
    "values", "best_mean", "stored_bytes", "samples_seen", "flops",
)  # fmt: skip
"""`evaluation` counts from 0; `steps` is of class-incremental rows; `values` are separated by spaces."""


class Scores(Exporter):
    """No images and no labels: the table that a paper or a spreadsheet wants."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)

    def check(self, content: Content) -> None:
        """There must be some."""
        if not content.bundle.manifest.evaluations:
            raise UsageError(
                f"{content.bundle.name} has no scores",
                field="format",
                hint=f"run 'ddlabel evaluate {content.bundle.name} --data NAME -o scored.ddset' first",
            )

    def describe(self, content: Content) -> Description:
        """Scores alone."""
        del content
        return Description(images={"form": None}, labels={}, lost=("images and labels are left out",))

    def write(self, content: Content, document: Mapping[str, Any], file: Open) -> None:
        """A header and the rows."""
        del document
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for index, evaluation in enumerate(content.bundle.manifest.evaluations):
            writer.writerows(_row(index, evaluation, result) for result in evaluation["results"])
        with file("") as stream:
            stream.write(text.getvalue().encode())


def _row(index: int, evaluation: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    accuracy, recipe = result["accuracy"], result.get("recipe", {})
    return {
        "evaluation": index,
        "protocol": evaluation["protocol"],
        **{name: result.get(name) for name in ("arch", "images", "labels", "steps", "stored_bytes", "samples_seen")},
        "loss": result.get("loss", {}).get("name"),
        "optimizer": recipe.get("optimizer"),
        **{name: accuracy[name] for name in ("mean", "std", "ci95", "n")},
        "values": " ".join(map(str, accuracy["values"])),
        "best_mean": result.get("best_on_test", {}).get("mean"),
        "flops": result.get("flops"),
    }


EXPORTER = Scores()
