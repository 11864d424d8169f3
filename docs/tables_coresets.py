"""Write docs/results-coresets.md: coresets beside random images, as a table of scored bundles and nothing else.

Usage: python docs/tables_coresets.py FOLDER (as `docs/coresets.sh` leaves it)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddlabel.bundle import Bundle
from ddlabel.scores import paired_difference

HERE = Path(__file__).parent
PUBLISHED: Mapping[str, float | None] = {
    "random": 27.1,
    "herding": 25.1,
    "k-center": 23.1,
    "forgetting": 23.9,
    "least-confidence": 10.8,
    "entropy": 14.8,
    "margin": 20.3,
    "craig": 19.0,
    "glister": 23.0,
    "grand": None,
    "el2n-hard": None,
    "el2n-middle": None,
    "el2n-easy": None,
}
"""Rows, as `docs/coresets.sh` calls them, and DCPI's Table 1 at ipc 10: full width, a ResNet-18, all images."""
EXPECTED = (
    ("el2n-easy", "herding"),
    ("herding", "random"),
    ("random", "k-center"),
    ("random", "el2n-hard"),
)
"""Which of two is expected to be ahead at ten images per class."""
HEAD = """# Coresets on CIFAR-10

Written by `python docs/tables_coresets.py` from scored bundles; do not edit. `docs/coresets.sh` makes the bundles.
Test accuracies of the last epoch over three students; ± is a standard error over paired seeds.
Seeds are of students: each method chose once, so the spread between choices is not in it.
Published values are those of DCPI's Table 1: ConvNet-D3 of full width, scores of a ResNet-18, all training images.
"""


def main(folder: str) -> None:
    """Write the page."""
    files = {name: Path(folder) / f"{name}-scored.ddset" for name in PUBLISHED}
    scored = {name: Bundle.open(file) for name, file in files.items() if file.exists()}
    commit = (Path(folder) / "commit.txt").read_text(encoding="utf-8").strip()
    parts = [HEAD, origin(scored["random"], commit), table(scored), order(scored)]
    (HERE / "results-coresets.md").write_text("\n".join(parts), encoding="utf-8")


def origin(bundle: Bundle, commit: str) -> str:
    """Command, data, students and machine, out of the bundle's own history."""
    data, evaluation, entry = bundle.manifest.data or {}, bundle.manifest.evaluations[-1], bundle.manifest.history[-1]
    result, host = evaluation["results"][0], entry["host"]
    return (
        f"`docs/coresets.sh DATA OUT` at `{commit}`: `{data['name']}` (JPEG copy), "
        f"{data['train_images']:,} training images ({data['validation']['fraction']:.0%} of the set held out), "
        f"{bundle.manifest.history[0]['config']['ipc']} images per class; "
        f"students {result['arch']}, protocol `{evaluation['protocol']}` (augmentation {result['recipe']['augment']}), "
        f"{result['recipe']['epochs']} epochs, seeds {', '.join(map(str, evaluation['seeds']))}; {host['device']}, "
        f"{host['threads']} thread(s) of an x86-64 server, torch {host['versions']['torch']}.\n"
    )


def table(scored: Mapping[str, Bundle]) -> str:
    """One row per method, and a fresh random choice per student."""
    random = scored["random"].manifest.evaluations[-1]["results"]
    rows = {name: bundle.manifest.evaluations[-1]["results"][0] for name, bundle in scored.items()}
    lines = [
        "| method | accuracy % | std | minus random | published | ties cut | content |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in rows.items():
        value = PUBLISHED[name]
        ties = scored[name].manifest.history[0].get("metrics", {}).get("ties_cut")
        cells = [name, *accuracy(result), difference(result, random[0])]
        cells += ["" if value is None else f"{value:.1f}", "" if ties is None else str(ties)]
        lines.append("| " + " | ".join([*cells, f"`{scored[name].content[:12]}`"]) + " |")
    for result in random[1:]:
        cells = ["random, a choice per student", *accuracy(result), difference(result, random[0]), "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def order(scored: Mapping[str, Bundle]) -> str:
    """What is expected of the order at small budgets, and what was measured."""
    lines = ["| expected | measured difference | holds |", "|---|---|---|"]
    for ahead, behind in EXPECTED:
        if ahead in scored and behind in scored:
            ours, theirs = (scored[name].manifest.evaluations[-1]["results"][0] for name in (ahead, behind))
            holds = ours["accuracy"]["mean"] > theirs["accuracy"]["mean"]
            lines.append(f"| {ahead} > {behind} | {difference(ours, theirs)} | {'yes' if holds else 'no'} |")
    return "\n".join(lines) + "\n"


def accuracy(result: Mapping[str, Any]) -> list[str]:
    """Mean and standard deviation in percent."""
    return [f"{100 * result['accuracy']['mean']:.2f}", f"{100 * (result['accuracy']['std'] or 0):.2f}"]


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Paired by seed, in points."""
    if ours is theirs:
        return ""
    gain = paired_difference(ours["accuracy"]["values"], theirs["accuracy"]["values"])
    return f"{100 * gain['mean']:+.2f} ± {100 * (gain['standard_error'] or 0):.2f}"


if __name__ == "__main__":
    main(sys.argv[1])
