"""Write docs/results-privileged.md: what tuned images and labels buy, as tables of scored bundles and nothing else.

Usage: python docs/tables_privileged.py FOLDER (as `docs/privileged.sh` leaves it, at any time)
       python docs/tables_privileged.py FOLDER --best N (print which forms should be scored again)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tables_forms import Row, accuracy, best, difference, forms_table

from ddlabel.bundle import Bundle

HERE = Path(__file__).parent
IMAGES = ("frozen", "tuned")
LABELS = ("none", "noise", "assigned-weak", "assigned-converged", "learned", "assigned-strong")
"""The grid's columns, as `docs/privileged.sh` calls them."""
HEAD = """# What privileged labels buy

Written by `python docs/tables_privileged.py` from scored bundles; do not edit. `docs/privileged.sh` makes the bundles.
Accuracies are test accuracies of the last epoch; differences are paired by seed, ± is their standard error.
Each set of images and labels was made once, so the spread between choices of images and between runs is not in it.
"""
GRID = """## Attribution

*frozen*: real images, as the coreset chose them. *tuned*: moved by gradient matching in the run that learned labels.
*none*: hard labels alone. *noise*: N(0, 1), never learned. *assigned-weak*: features of the teacher after one epoch.
*assigned-converged*: after its last. *learned*: by `refine --method dcpi`. *assigned-strong*: the converged labels
again, with a weight a hundred times as large. These rows have the very same images.
*random*: real images of as many bytes as images and labels together; *same method*: the coreset's method, with as many,
not tuned.
"""
SUMMARY = """### Where the gain comes from

*all*: tuned images with learned labels minus the coreset with hard labels, what DCPI reports as its gain.
*images alone*: tuned minus frozen, both with hard labels. Others: learned labels minus those, on the same images.
"""
FORMS = """## Forms

The same frozen images with labels of many forms. *gain* is over the same images with hard labels alone;
*a kB* is that gain for a thousand bytes of labels per image. Bytes are those stored in the file.
"""
TOGETHER = """## Labels together

Under protocol `dm`, with the augmentation that distilled sets are trained with. *feature*: of the converged teacher,
in 3 bits an element, with the large weight; *soft* and *dense* (25 windows) of the same teacher. *random* images with
hard labels and of equal bytes; *plain-equal-bytes*: more images of the same method. *mtt-tuned*: images and labels
learned by matching trajectories, stored in float32; *mtt-strong*: these images with the converged teacher's labels.
*nets*: students of other nets than the teacher's, an adapter where shapes differ. *minus hard*: the same net on the
coreset's images with hard labels.
"""
CONFIRM = """### Confirmed

The best of many rows is partly the luckiest one. These were chosen from the table above (largest gain less a standard
error, per byte, of those above two standard errors; and the largest gain of all), and scored again by other students.
"""


def main(arguments: Sequence[str]) -> None:
    """Write the page, or print the best forms."""
    folder = Path(arguments[0])
    rows = {
        file.name.removesuffix("-scored.ddset"): Row(Bundle.open(file))
        for file in sorted(folder.glob("*-scored.ddset"))
    }
    forms = {name.removeprefix("form-"): row for name, row in rows.items() if name.startswith("form-")}
    if arguments[1:2] == ["--best"]:
        print("\n".join(best(forms, int(arguments[2]))))
        return
    confirmed = {name.removeprefix("confirm-"): row for name, row in rows.items() if name.startswith("confirm-")}
    grids = read_grids(
        {name: row for name, row in rows.items() if not name.startswith(("form-", "confirm-", "together-"))}
    )
    together = {name.removeprefix("together-"): row for name, row in rows.items() if name.startswith("together-")}
    parts = [HEAD]
    if rows:
        parts.append(origin(folder, list(rows.values())))
    if grids:
        parts.append(GRID)
        parts += [f"### {coreset}\n\n{grid_table(grid)}" for coreset, grid in grids.items()]
        parts += [SUMMARY, summary_table(grids)]
    if forms:
        parts += [FORMS, forms_table(forms)]
    if confirmed:
        parts += [CONFIRM, forms_table(confirmed)]
    if together:
        parts += [TOGETHER, together_table(together)]
    (HERE / "results-privileged.md").write_text("\n".join(parts), encoding="utf-8")


Grid = Mapping[tuple[str, str], tuple[Row, Mapping[str, Any]]]
"""Evaluation and its result, by images and labels."""


def read_grids(rows: Mapping[str, Row]) -> dict[str, Grid]:
    """Every coreset's grid; `none` comes from whichever evaluation of these images is there."""
    grids: dict[str, dict[tuple[str, str], tuple[Row, Mapping[str, Any]]]] = {}
    for name, row in rows.items():
        for images in IMAGES:
            coreset, found, labels = name.partition(f"-{images}-")
            if found and labels in LABELS:
                grid = grids.setdefault(coreset, {})
                grid[images, labels] = (row, row.own)
                if row.plain is not None:
                    grid.setdefault((images, "none"), (row, row.plain))
    return dict(grids)


def origin(folder: Path, rows: Sequence[Row]) -> str:
    """Command, data, students, machine and how labels were learned, out of the bundles' own histories."""
    bundle, evaluation = rows[0].bundle, rows[0].evaluation
    data, host, result = bundle.manifest.data or {}, bundle.manifest.history[-1]["host"], rows[0].own
    commits = dict.fromkeys((folder / "commits.txt").read_text(encoding="utf-8").split())
    text = (
        f"`docs/privileged.sh DATA OUT` at {', '.join(f'`{commit}`' for commit in commits)}: "
        f"`{data['name']}` (JPEG copy), "
        f"{data['train_images']:,} training images ({data['validation']['fraction']:.0%} of the set held out), "
        f"{bundle.manifest.history[0]['config']['ipc']} images per class; students {result['arch']}, protocol "
        f"`{evaluation['protocol']}`, {result['recipe']['epochs']} epochs, seeds "
        f"{', '.join(map(str, evaluation['seeds']))}; {host['device']}, {host['threads']} thread(s), x86-64, torch "
        f"{host['versions']['torch']}.\n"
    )
    learned = [
        entry for row in rows for entry in row.bundle.manifest.history if entry["config"].get("method") == "dcpi"
    ]
    if learned:
        options = learned[0]["config"]["options"]
        names = ("steps", "outer", "inner", "batch_real", "lr_net", "lambda_task", "k", "init")
        said = ", ".join(f"`{name}={options[name]}`" for name in names if options.get(name) is not None)
        rate = next((entry["config"]["options"].get("lr_images") for entry in learned if tuned(entry)), None)
        text += f"\nLabels were learned with {said}" + ("" if rate is None else f"; images moved by `lr_images={rate}`")
        text += ".\n"
    return text


def tuned(entry: Mapping[str, Any]) -> bool:
    """Whether a `refine` moved the images."""
    return str(entry["config"]["options"].get("tune_images", False)).lower() == "true"


def grid_table(grid: Grid) -> str:
    """One line per kind of images and labels."""
    lines = [
        "| images | labels | accuracy % | std | minus none | minus noise | minus frozen none | bytes an image "
        "| random, images a class | accuracy % | labels minus random | same method | labels minus it |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for images in IMAGES:
        for labels in LABELS:
            if (images, labels) not in grid:
                continue
            row, result = grid[images, labels]
            others = [grid.get(key) for key in ((images, "none"), (images, "noise"), ("frozen", "none"))]
            cells = [images, labels, *accuracy(result)]
            cells += ["" if other is None else difference(result, other[1]) for other in others]
            cells.append(f"{result['stored_bytes'] / row.count:,.0f}")
            cells += equal_bytes(row) if labels != "none" else [""] * 5
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def equal_bytes(row: Row) -> list[str]:
    """Random images of as many bytes, and more of the same method: how many, how good, how far behind."""
    random, same = row.result("random-equal-bytes", "hard"), row.result("plain-equal-bytes", "hard")
    cells = ["", "", ""]
    if random is not None and row.plain is not None:
        ipc = row.bundle.manifest.history[0]["config"]["ipc"] * random["stored_bytes"] / row.plain["stored_bytes"]
        cells = [f"{ipc:.0f}", accuracy(random)[0], difference(row.own, random)]
    return [*cells, *(("", "") if same is None else (accuracy(same)[0], difference(row.own, same)))]


def summary_table(grids: Mapping[str, Grid]) -> str:
    """Where the gain over the coreset with hard labels comes from."""
    lines = [
        "| coreset | all | images alone | images | learned minus none | minus noise | minus assigned-weak "
        "| minus assigned-converged |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for coreset, grid in grids.items():
        for images in IMAGES:
            cells = [coreset, between(grid, ("tuned", "learned"), ("frozen", "none"))]
            cells.append(between(grid, ("tuned", "none"), ("frozen", "none")))
            cells = cells if images == "frozen" else ["", "", ""]
            cells.append(images)
            cells += [between(grid, (images, "learned"), (images, other)) for other in LABELS[:4]]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def together_table(rows: Mapping[str, Row]) -> str:
    """Every row of every evaluation, once; what is compared with is the first one's images with hard labels."""
    lines = [
        "| run | net | images | labels | loss | lambda_reg | bytes an image | accuracy % | std | minus hard |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(rows, key=lambda name: (name.startswith("mtt"), name != "feature", name == "nets", name))
    hards = {
        result["arch"]: result
        for name in reversed(order)
        for result in rows[name].evaluation["results"]
        if (result["images"], result["labels"]) == ("bundle", "hard")
    }
    seen = set()
    for name in order:
        for result in rows[name].evaluation["results"]:
            cells = [result["arch"], result["images"], result["labels"], result["loss"]["name"]]
            used = rows[name].evaluation.get("privileged") if "feature" in result["labels"] else None
            cells.append("" if used is None else f"{used['objective']['lambda_reg']:g}")
            cells.append(f"{result['stored_bytes'] / rows[name].count:,.0f}")
            cells += accuracy(result)
            hard = hards.get(result["arch"])
            cells.append("" if hard is None else difference(result, hard))
            key = tuple(cells)
            if key not in seen:
                lines.append("| " + " | ".join([name, *cells]) + " |")
            seen.add(key)
    return "\n".join(lines) + "\n"


def between(grid: Grid, ours: tuple[str, str], theirs: tuple[str, str]) -> str:
    """Difference of two cells, where both are there."""
    return difference(grid[ours][1], grid[theirs][1]) if ours in grid and theirs in grid else ""


if __name__ == "__main__":
    main(sys.argv[1:])
