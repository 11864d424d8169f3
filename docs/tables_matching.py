"""Write docs/results-matching.md: matching methods beside random images, as tables of scored bundles and nothing else.

Usage: python docs/tables_matching.py FOLDER (as `docs/matching.sh` leaves it)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddlabel.bundle import Bundle
from ddlabel.recipes import load_recipe, recipe_names
from ddlabel.scores import paired_difference

HERE = Path(__file__).parent
BUDGETS = (1, 10)
METHODS = ("dc", "dm", "mtt", "datm", "pad", "datm-fiex", "pad-fiex")
"""Rows, as `docs/matching.sh` calls them; those ending in `-fiex` are matched to experts with a curriculum."""
RIVALS = {"pad": "datm", "pad-fiex": "datm-fiex"}
"""What PAD is compared with: DATM on the same experts."""
HEAD = """# Matching methods

Written by `python docs/tables_matching.py` from scored bundles; do not edit. `docs/matching.sh` makes the bundles.
What the tables say is in [measured.md](measured.md).
Accuracies are test accuracies of the last epoch over three students; ± is a standard error over paired seeds.
Published values are those of the recipe of that name, at full width, on all training images and with full budgets.
"""


def main(folder: str) -> None:
    """Write the page."""
    parts = [HEAD, experts_table(Path(folder))]
    for ipc in BUDGETS:
        files = {name: Path(folder) / f"{name}-{ipc}-scored.ddset" for name in METHODS}
        scored = {name: Bundle.open(file) for name, file in files.items() if file.exists()}
        parts += [f"## {ipc} image{'s' * (ipc > 1)} per class\n", origin(scored["dm"]), table(scored, ipc)]
    (HERE / "results-matching.md").write_text("\n".join(parts), encoding="utf-8")


def origin(bundle: Bundle) -> str:
    """Data, students and machine, out of the bundle's own history."""
    data, evaluation, entry = bundle.manifest.data or {}, bundle.manifest.evaluations[-1], bundle.manifest.history[-1]
    result, host = evaluation["results"][0], entry["host"]
    return (
        f"`{data['name']}`, {data['train_images']:,} training images ({data['validation']['fraction']:.0%} of the set "
        f"held out); students {result['arch']}, {result['recipe']['epochs']} epochs, seeds "
        f"{', '.join(map(str, evaluation['seeds']))}; {host['device']}, {host['threads']} thread(s), torch "
        f"{host['versions']['torch']}.\n"
    )


def experts_table(folder: Path) -> str:
    """What the experts reached."""
    lines = ["| experts | epochs | optimiser | curriculum | test accuracy % |", "|---|---|---|---|---|"]
    for name in ("experts", "pad-experts"):
        bundle = Bundle.open(folder / f"{name}.ddset")
        sections = bundle.sections("trajectory")
        about = sections[0].parameters
        reached = ", ".join(f"{100 * section.parameters['accuracy']['test']:.1f}" for section in sections)
        recipe = about["recipe"]
        how = f"{recipe['optimizer']} {recipe['lr']:g}, batch {recipe['batch']}"
        lines.append(f"| {name} | {about['epochs'][-1]} | {how} | {about['curriculum'] or 'none'} | {reached} |")
    return "\n".join(lines) + "\n"


def table(scored: Mapping[str, Bundle], ipc: int) -> str:
    """One row per method, and random images."""
    rows = {name: bundle.manifest.evaluations[-1]["results"][0] for name, bundle in scored.items()}
    rows = {"random": scored["dm"].manifest.evaluations[-1]["results"][1], **rows}
    lines = [
        "| method | steps | labels | protocol | accuracy % | std | minus random | minus datm, same experts | published "
        "| content |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in rows.items():
        bundle = scored.get(name)
        config = {} if bundle is None else bundle.manifest.history[0]["config"]
        protocol = "dm" if bundle is None else bundle.manifest.evaluations[-1]["protocol"]
        cells = [
            name,
            str(config.get("options", {}).get("steps", "")),
            result["labels"],
            protocol,
            f"{100 * result['accuracy']['mean']:.2f}",
            f"{100 * result['accuracy']['std']:.2f}",
            difference(result, rows["random"]),
            difference(result, rows[RIVALS[name]]) if RIVALS.get(name) in rows else "",
            published(config.get("method", ""), ipc),
            "" if bundle is None else f"`{bundle.content[:12]}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Paired by seed."""
    if ours is theirs:
        return ""
    gain = paired_difference(ours["accuracy"]["values"], theirs["accuracy"]["values"])
    return f"{100 * gain['mean']:+.2f} ± {100 * gain['standard_error']:.2f}"


def published(method: str, ipc: int) -> str:
    """The accuracy that the method's recipe names."""
    name = f"{method}/cifar10-ipc{ipc}"
    if name not in recipe_names():
        return ""
    value = load_recipe(name).published
    return "" if value is None else f"{100 * value.accuracy:.1f}"


if __name__ == "__main__":
    main(sys.argv[1])
