"""Write docs/results-decoupled.md: RDED, SRe2L and G-VBSM beside random images, from scored bundles and nothing else.

Usage: python docs/tables_decoupled.py FOLDER (as `docs/decoupled.sh` leaves it)
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddlabel.bundle import Bundle
from ddlabel.scores import paired_difference

HERE = Path(__file__).parent
SETS = ("random", "rded", "sre2l", "g-vbsm")
LABELS = {"": "hard", "-soft": "one soft label", "-gift": "refined (GIFT)", "-fkd": "fkd views"}
"""What `docs/decoupled.sh` adds to the name of a set, and what its labels are called."""
PICTURES = ("rded-nets.svg", "rded-steps.svg")
HEAD = """# RDED, SRe2L and G-VBSM on CIFAR-10

Written by `python docs/tables_decoupled.py` from scored bundles; do not edit. `docs/decoupled.sh` makes the bundles.
Test accuracies of the last epoch in percent; ± is a standard error over paired seeds of students.
Every set was made once, so the spread between sets of one method is not in it.
"""


def main(folder: str) -> None:
    """Write the page and copy its pictures."""
    place = Path(folder)
    scored = {path.name.removesuffix(".ddset"): Bundle.open(path) for path in sorted(place.glob("*.ddset"))}
    commit = (place / "commit.txt").read_text(encoding="utf-8").strip()
    parts = [HEAD, origin(scored, commit), teachers(scored), table(scored), differences(scored), more(scored)]
    for name in PICTURES:
        if (place / name).exists():
            shutil.copy(place / name, HERE / name)
            parts.append(f"![{name.removesuffix('.svg')}]({name})\n")
    (HERE / "results-decoupled.md").write_text("\n".join(part for part in parts if part), encoding="utf-8")


def origin(scored: Mapping[str, Bundle], commit: str) -> str:
    """Command, data, students and machine, out of the bundles' own histories."""
    bundle = scored["random-scored"]
    data, evaluation, entry = bundle.manifest.data or {}, bundle.manifest.evaluations[-1], bundle.manifest.history[-1]
    result, host = evaluation["results"][0], entry["host"]
    return (
        f"`docs/decoupled.sh DATA OUT` at `{commit}`: `{data['name']}` (JPEG copy), {data['train_images']:,} training "
        f"images, {bundle.manifest.history[0]['config']['ipc']} images per class; students {result['arch']}, "
        f"{result['recipe']['epochs']} epochs, {result['samples_seen']:,} samples seen by each, seeds "
        f"{', '.join(map(str, evaluation['seeds']))}; {host['device']}, {host['threads']} thread(s) of an x86-64 "
        f"server, torch {host['versions']['torch']}.\n"
    )


def teachers(scored: Mapping[str, Bundle]) -> str:
    """The squeezed nets."""
    lines = ["| squeezed net | epochs | held-out % | test % |", "|---|---|---|---|"]
    for name in ("teacher", "second", "third"):
        if name not in scored:
            continue
        for section in scored[name].sections("teacher"):
            said, accuracy = section.parameters, section.parameters["accuracy"]
            what = f"{said['arch']}, PAD's curriculum" if name == "fiex" else said["arch"]
            if said["epoch"] in {4, 12}:
                shares = [f"{100 * accuracy[split]:.1f}" for split in ("validation", "test")]
                lines.append(f"| {what} | {said['epoch']} | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


def table(scored: Mapping[str, Bundle]) -> str:
    """One row per set of images, one column per kind of labels."""
    lines = ["| images | " + " | ".join(LABELS.values()) + " |", "|---" * (len(LABELS) + 1) + "|"]
    for name in SETS:
        cells = [cell(first(scored, f"{name}{suffix}-scored")) for suffix in LABELS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "Accuracy (standard deviation over students):\n\n" + "\n".join(lines) + "\n"


def differences(scored: Mapping[str, Bundle]) -> str:
    """Every set minus random images with the same labels."""
    lines = ["| minus random images | " + " | ".join(LABELS.values()) + " |", "|---" * (len(LABELS) + 1) + "|"]
    for name in SETS[1:]:
        cells = []
        for suffix in LABELS:
            ours, theirs = first(scored, f"{name}{suffix}-scored"), first(scored, f"random{suffix}-scored")
            cells.append(difference(ours, theirs))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "Beside random images with the same labels:\n\n" + "\n".join(lines) + "\n"


def more(scored: Mapping[str, Bundle]) -> str:
    """Further evaluations, row by row as they were scored."""
    parts = []
    for name in ("g-vbsm-three-scored", "rded-kd", "rded-nets", "rded-steps"):
        if name not in scored:
            continue
        evaluation = scored[name].manifest.evaluations[-1]
        note = "" if evaluation["assumption_compliant"] else ", not compliant: a live teacher answered every batch"
        parts += [f"`{name}`, protocol `{evaluation['protocol']}`{note}:\n"]
        lines = ["| net | images | labels | loss | accuracy % | steps |", "|---|---|---|---|---|---|"]
        for row in evaluation["results"]:
            steps = row.get("incremental", {}).get("steps", "")
            cells = (row["arch"], row["images"], row["labels"], row["loss"]["name"], cell(row), str(steps))
            lines.append("| " + " | ".join(cells) + " |")
        parts += ["\n".join(lines), ""]
    return "\n".join(parts)


def first(scored: Mapping[str, Bundle], name: str) -> Mapping[str, Any] | None:
    """The first row of a scored bundle."""
    return scored[name].manifest.evaluations[-1]["results"][0] if name in scored else None


def cell(row: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation."""
    if row is None:
        return ""
    accuracy = row["accuracy"]
    return f"{100 * accuracy['mean']:.1f} ({100 * (accuracy['std'] or 0):.1f})"


def difference(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> str:
    """Paired by seed, in points."""
    if ours is None or theirs is None:
        return ""
    gain = paired_difference(ours["accuracy"]["values"], theirs["accuracy"]["values"])
    return f"{100 * gain['mean']:+.1f} ± {100 * (gain['standard_error'] or 0):.1f}"


if __name__ == "__main__":
    main(sys.argv[1])
