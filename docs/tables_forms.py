"""Which form of label buys most per byte: the rows of `tables_privileged.py`, and its table of forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ddlabel.bundle import Bundle
from ddlabel.scores import paired_difference


@dataclass(frozen=True)
class Row:
    """The newest evaluation of one bundle."""

    bundle: Bundle

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        """Its record."""
        found: Mapping[str, Any] = self.bundle.manifest.evaluations[-1]
        return found

    @property
    def own(self) -> Mapping[str, Any]:
        """The images with all their labels."""
        result: Mapping[str, Any] = self.evaluation["results"][0]
        return result

    @property
    def plain(self) -> Mapping[str, Any] | None:
        """The same images and class labels alone; None where there is nothing beside these."""
        return self.result("bundle", self.own["labels"].partition("+")[0]) if "+" in self.own["labels"] else None

    def result(self, images: str, labels: str) -> Mapping[str, Any] | None:
        """A row of the evaluation."""
        rows = self.evaluation["results"]
        return next((row for row in rows if (row["images"], row["labels"]) == (images, labels)), None)

    @cached_property
    def count(self) -> int:
        """Images."""
        spent = self.bundle.section("images").tensors["images.pixels"]
        return int(spent.get("packed", spent)["shape"][0])


def forms_table(rows: Mapping[str, Row]) -> str:
    """One line per form, the most gained per byte first."""
    lines = [
        "| labels | by | layer | shape | lambda_reg | norm or metric | codec | bytes an image "
        "| accuracy % | std | gain | a kB | random of equal bytes | minus random |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(rows, key=lambda name: -worth(rows[name], rows)):
        row = rows[name]
        known, random = gained(row, rows), row.result("random-equal-bytes", "hard")
        cells = [*describe(row), "" if known is None else f"{known[1]:,.0f}", *accuracy(row.own)]
        cells += ["", ""] if known is None else [said(known[0]), f"{1e5 * known[0]['mean'] / known[1]:+.2f}"]
        cells += ["", ""] if random is None else [accuracy(random)[0], difference(row.own, random)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def describe(row: Row) -> list[str]:
    """Kind, origin, layer, shape, weight, norm and codec of a row's labels."""
    kind, used = row.own["labels"].removeprefix("hard+"), row.evaluation.get("privileged")
    made = [entry for entry in row.bundle.manifest.history if entry["stage"] == "augment-labels"]
    by = f"epoch {made[-1]['config']['checkpoint'].rpartition('.')[2]}" if made else ""
    if used is None:
        return [kind, by, "", "", "", "", row.evaluation["codec"]["name"]]
    form, objective = used["form"], used["objective"]
    if form["attention"]:
        kind = kind.replace("attention", f"{form['attention']} attention")
    by = by if used["mode"] == "assigned" else used["mode"]
    shape = " x ".join(map(str, form["shape"]))
    return [
        kind,
        by,
        str(form["layer"]),
        shape,
        f"{objective['lambda_reg']:g}",
        objective["norm"] if objective["metric"] == "mse" else objective["metric"],
        used["codec"]["name"],
    ]


def hard_result(row: Row, rows: Mapping[str, Row]) -> Mapping[str, Any] | None:
    """The same images with hard labels alone, by the same students, from whichever evaluation has them."""
    for other in (row, *rows.values()):
        found = other.result("bundle", "hard")
        same = all(other.evaluation[key] == row.evaluation[key] for key in ("images", "seeds", "protocol"))
        if found is not None and same and found["recipe"]["epochs"] == row.own["recipe"]["epochs"]:
            return found
    return None


def gained(row: Row, rows: Mapping[str, Row]) -> tuple[dict[str, Any], float] | None:
    """Accuracy over hard labels alone on the same images, paired by seed; bytes of an image's labels beyond these."""
    hard = hard_result(row, rows)
    if hard is None:
        return None
    gain = paired_difference(row.own["accuracy"]["values"], hard["accuracy"]["values"])
    return gain, (row.own["stored_bytes"] - hard["stored_bytes"]) / row.count


def worth(row: Row, rows: Mapping[str, Row]) -> float:
    """Gain less a standard error, per byte; what is not above two standard errors comes last."""
    known = gained(row, rows)
    if known is None or not known[1]:
        return float("-inf")
    gain, spent = known
    error = gain["standard_error"] or 0.0
    return float((gain["mean"] - error) / spent) if gain["mean"] > 2 * error else -1 + gain["mean"]


def best(rows: Mapping[str, Row], count: int) -> list[str]:
    """Names of the forms that gain most per byte, and of the one that gains most."""
    known = {name: found[0] for name, row in rows.items() if (found := gained(row, rows)) is not None}
    ranked = sorted((name for name in known if worth(rows[name], rows) > 0), key=lambda name: -worth(rows[name], rows))
    most = max(known, key=lambda name: known[name]["mean"], default=None)
    return list(dict.fromkeys([*ranked[:count], *([] if most is None else [most])]))


def accuracy(result: Mapping[str, Any]) -> list[str]:
    """Mean and standard deviation in percent."""
    return [f"{100 * result['accuracy']['mean']:.2f}", f"{100 * (result['accuracy']['std'] or 0):.2f}"]


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Paired by seed, in points; nothing for a row and itself."""
    if ours is theirs:
        return ""
    return said(paired_difference(ours["accuracy"]["values"], theirs["accuracy"]["values"]))


def said(gain: Mapping[str, Any]) -> str:
    """Points, and their standard error where there is one."""
    error = gain["standard_error"]
    return f"{100 * gain['mean']:+.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
