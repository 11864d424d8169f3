"""Write docs/results-labels.md: what labels gain, as tables of scored bundles and nothing else.

Usage: python docs/tables.py CIFAR10_FOLDER IMAGENETTE_FOLDER (as `docs/labels.sh` leaves them)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddlabel.bundle import Bundle
from ddlabel.scores import paired_difference

HERE = Path(__file__).parent
SETS = (
    ("CIFAR-10 (JPEG copy)", ("base-scored", "dense-scored", "q8-scored"), ("grid", "grid-soft")),
    ("ImageNette subset, 64 px", ("base-scored", "dense-scored", "q4-shared-scored"), ("grid",)),
)
HEAD = """# What labels gain

Written by `python docs/tables.py` from scored bundles; do not edit. `docs/labels.sh` makes the bundles.
What the tables say is in [measured.md](measured.md).
Accuracies are test accuracies of the last epoch; ± is a standard error over paired seeds.
"""


def main(folders: Sequence[str]) -> None:
    """Write the page."""
    parts = [HEAD]
    for folder, (title, ladd, grids) in zip(folders, SETS, strict=True):
        bundles = [Bundle.open(Path(folder) / f"{name}.ddset") for name in ladd]
        parts += [f"## {title}: dense labels against plain images\n", origin(bundles[-1]), ladd_table(bundles)]
        for compared in (Bundle.open(Path(folder) / f"{name}.ddset") for name in grids):
            kind = compared.manifest.evaluations[-1]["labels"]
            parts += [f"## {title}: losses and optimisers on {kind} labels\n", origin(compared)]
            parts += [grid_table(compared), gap_table(compared)]
    (HERE / "results-labels.md").write_text("\n".join(parts), encoding="utf-8")


def origin(bundle: Bundle) -> str:
    """Data, students and machine, out of the bundle's own history."""
    data, evaluation, entry = bundle.manifest.data or {}, bundle.manifest.evaluations[-1], bundle.manifest.history[-1]
    result, versions, host = evaluation["results"][0], entry["host"]["versions"], entry["host"]
    distilled = next(item["config"] for item in bundle.manifest.history if item["stage"] == "distill")
    return (
        f"`{data['name']}`, {data['height']} px, {distilled['ipc']} images per class by `{distilled['method']}`; "
        f"students {result['arch']}, protocol `{evaluation['protocol']}`, {result['recipe']['epochs']} epochs, seeds "
        f"{', '.join(map(str, evaluation['seeds']))}; {host['device']}, {host['threads']} thread(s), torch "
        f"{versions['torch']}; content `{bundle.content[:12]}`.\n"
    )


def ladd_table(bundles: Sequence[Bundle]) -> str:
    """Every row of all bundles, each less the first one (hard labels on the same images)."""
    rows = [(bundle, result) for bundle in bundles for result in bundle.manifest.evaluations[-1]["results"]]
    first = rows[0][1]["accuracy"]["values"]
    lines = [
        "| images | labels | codec | bytes | accuracy % | std | n | minus the first row | dense labels minus this |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for bundle, result in rows:
        evaluation = bundle.manifest.evaluations[-1]
        own = result["labels"] == evaluation["labels"] and result["labels"] != "hard"
        codec = evaluation["codec"]["name"] if own else ""
        cells = [result["images"], result["labels"], codec, f"{result['stored_bytes']:,}", *accuracy(result)]
        cells.append(difference(result["accuracy"]["values"], first))
        gain = result.get("bundle_minus_this")
        cells.append("" if gain is None else f"{100 * gain['mean']:+.2f} ± {100 * gain['standard_error']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    plain, small = (bundle.manifest.evaluations[-1] for bundle in bundles[1:])
    rounding = difference(*(each["results"][0]["accuracy"]["values"] for each in (small, plain)))
    lines.append(f"\nDense labels in {small['codec']['name']} minus the same labels in f32: {rounding} points.")
    return "\n".join(lines) + "\n"


def grid_table(bundle: Bundle) -> str:
    """Losses by optimiser, each less the first loss under the same optimiser."""
    results = bundle.manifest.evaluations[-1]["results"]
    lines = ["| optimiser | loss | accuracy % | std | n | first loss minus this |", "|---|---|---|---|---|---|"]
    for result in results:
        gain = result.get("first_loss_minus_this")
        shown = "" if gain is None else f"{100 * gain['mean']:+.2f} ± {100 * gain['standard_error']:.2f}"
        how = f"{result['recipe']['optimizer']} {result['recipe']['lr']:g}"
        lines.append("| " + " | ".join([how, result["loss"]["name"], *accuracy(result), shown]) + " |")
    return "\n".join(lines) + "\n"


def gap_table(bundle: Bundle) -> str:
    """How much each loss depends on the optimiser."""
    entries = bundle.manifest.evaluations[-1]["optimizers"]
    names = list(entries[0]["best"])
    lines = ["| loss | " + " | ".join(names) + " | mean | least | robustness gap |", "|---" * (len(names) + 4) + "|"]
    for entry in entries:
        cells = [span(entry["worst"][name], entry["best"][name]) for name in names]
        cells += [f"{100 * entry[key]:.2f}" for key in ("mean", "least", "robustness_gap")]
        lines.append(f"| {entry['loss']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def accuracy(result: Mapping[str, Any]) -> list[str]:
    """Mean, standard deviation and number of students."""
    scores = result["accuracy"]
    return [f"{100 * scores['mean']:.2f}", f"{100 * (scores['std'] or 0):.2f}", str(scores["n"])]


def difference(ours: list[float], first: list[float]) -> str:
    """Paired by seed."""
    if ours == first:
        return ""
    gain = paired_difference(ours, first)
    return f"{100 * gain['mean']:+.2f} ± {100 * (gain['standard_error'] or 0):.2f}"


def span(worst: float, best: float) -> str:
    """The worse and the better step size, where there are two."""
    return f"{100 * best:.2f}" if worst == best else f"{100 * worst:.2f} to {100 * best:.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
