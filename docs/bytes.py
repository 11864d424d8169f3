"""Write docs/bytes.md and docs/bytes.svg: what a byte of labels buys, from scored bundles and nothing else.

Usage: python docs/bytes.py SCORED.ddset... (as `docs/labels.sh bytes` leaves them)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddlabel.bundle import Bundle
from ddlabel.cli._curve import Point, frontier, points_of, svg
from ddlabel.scores import paired_difference

HERE = Path(__file__).parent
HEAD = """# What a byte buys

Written by `python docs/bytes.py` from scored bundles; do not edit. `docs/labels.sh` makes the bundles.

![accuracy against stored bytes](bytes.svg)

{origin}

| images | labels | codec | bytes a view | KL | total bytes | accuracy % | ± 95 % | minus f32 | best for its bytes |
|---|---|---|---|---|---|---|---|---|---|
{rows}

*bytes a view*: stored bytes of the label section over images and views.
*total bytes*: images, hard labels and this label kind.
*KL*: mean divergence, in nat, of the stored labels from the teacher's at T = 1, as measured when they were encoded.
*minus f32*: paired by seed, with its standard error. *best for its bytes*: no row that costs as much or less is better.
The same labels under another codec make the same students but for rounding: differences show what rounding costs.
"""


def main(files: Sequence[str]) -> None:
    """Write both files."""
    bundles = [Bundle.open(file) for file in files]
    points = points_of(bundles)
    (HERE / "bytes.svg").write_text(svg(points), encoding="utf-8")
    best = set(frontier(points))
    rows = sorted(
        (row for bundle in bundles for row in rows_of(bundle)), key=lambda row: (row["stored"], row["labels"])
    )
    references = {row["labels"]: row["values"] for row in rows if row["codec"] == "f32"}
    seen: dict[str, None] = {}
    for row in rows:
        seen[line(row, references.get(row["labels"]), best)] = None
    (HERE / "bytes.md").write_text(HEAD.format(origin=origin(bundles[-1]), rows="\n".join(seen)), encoding="utf-8")


def rows_of(bundle: Bundle) -> list[dict[str, Any]]:
    """The scored rows of a bundle with the cost and fidelity of their labels."""
    evaluation = bundle.manifest.evaluations[-1]
    found = []
    for result in evaluation["results"]:
        own = result["labels"] == evaluation["labels"] and result["labels"] != "hard"
        section = bundle.section(f"labels.{result['labels']}") if own else None
        fidelity = dict(section.record.get("fidelity") or {}) if section else {}
        found.append(
            {
                "images": result["images"],
                "labels": result["labels"] + (" refined" if own and evaluation["refined"] else ""),
                "codec": evaluation["codec"]["name"] if own else "",
                "view": bundle.manifest.storage["bits_per_view"][section.name] / 8 if section else None,
                "kl": fidelity.get("kl_t1"),
                "stored": result["stored_bytes"],
                "values": result["accuracy"]["values"],
                "accuracy": result["accuracy"],
            }
        )
    return found


def line(row: dict[str, Any], reference: list[float] | None, best: set[Point]) -> str:
    """One row of the table."""
    minus = ""
    if reference is not None and row["codec"] != "f32" and len(reference) == len(row["values"]):
        difference = paired_difference(row["values"], reference)
        minus = f"{100 * difference['mean']:+.2f} ± {100 * (difference['standard_error'] or 0):.2f}"
    leads = any(point.stored == row["stored"] and point.mean == row["accuracy"]["mean"] for point in best)
    spread = row["accuracy"]["ci95"]
    cells = [
        row["images"],
        row["labels"],
        row["codec"],
        "" if row["view"] is None else f"{row['view']:.2f}",
        "" if row["kl"] is None else f"{row['kl']:.1e}",
        f"{row['stored']:,}",
        f"{100 * row['accuracy']['mean']:.2f}",
        "" if spread is None else f"{100 * spread:.2f}",
        minus,
        "yes" if leads else "",
    ]
    return "| " + " | ".join(cells) + " |"


def origin(bundle: Bundle) -> str:
    """Where the numbers come from, out of the bundle's own history."""
    data, evaluation, entry = bundle.manifest.data or {}, bundle.manifest.evaluations[-1], bundle.manifest.history[-1]
    result, versions = evaluation["results"][0], entry["host"]["versions"]
    distilled = next(item for item in bundle.manifest.history if item["stage"] == "distill")
    return (
        f"Data `{data['name']}`, {data['height']} px, {distilled['config']['ipc']} images per class by "
        f"`{distilled['config']['method']}`; students {result['arch']}, protocol `{evaluation['protocol']}`, "
        f"{result['recipe']['epochs']} epochs, seeds {', '.join(map(str, evaluation['seeds']))}; "
        f"{entry['host']['device']}, {entry['host']['threads']} thread(s), torch {versions['torch']}, "
        f"ddlabel {versions['ddlabel']}."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
