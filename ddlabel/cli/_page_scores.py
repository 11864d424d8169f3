"""Every evaluation of a bundle as tables of the page: rows, steps, nets, rankings, calibration, diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._calibration import calibration_cells
from ._chart import chart
from ._diagnostics import BASES, alignment_cells, measure_cells
from ._page import Child, Html, capital, facts, note, section, sentence, table, tag, tolerant, trusted
from ._ranking import chosen_rates, ranking_cells
from ._row_tables import groups_of, steps_tables, summary_cells
from ._tables import adapter_line, gain, optimizer_cells, score_cells

__all__ = ["evaluations"]

MOST_VALUES = 5
"""Students of a row whose accuracies are told one by one."""
COLUMNS = (
    ("images", "left"),
    ("labels", "left"),
    ("loss", "left"),
    ("net", "left"),
    ("optimiser", "left"),
    ("epochs", "right"),
    ("accuracy %", "right"),
    ("std", "right"),
    ("± 95 %", "right"),
    ("seen only %", "right"),
    ("n", "right"),
    ("bundle − row", "right"),
    ("bytes", "right"),
    ("each student %", "left"),
)


def evaluations(records: Sequence[Mapping[str, Any]]) -> Html | None:
    """All scores of a bundle, oldest first; None where there are none."""
    if not records:
        return None
    parts = [
        tolerant(f"Score {number}", record, lambda record=record, number=number: _evaluation(number, record))  # type: ignore[misc]
        for number, record in enumerate(records, start=1)
    ]
    return section("Scores", parts, level=3)


def _evaluation(number: int, record: Mapping[str, Any]) -> Child:
    test = record["test"]
    title = f"Score {number}: protocol {record['protocol']}, {test['images']} test images of {test['name']}"
    parts: list[Child] = [_compliance(record), facts(_facts(record))]
    summaries = groups_of(record.get("summary", ()))
    for steps, rows in groups_of(record["results"]).items():
        what = "Mean over class-incremental steps" if steps else "Test accuracy"
        parts.append(_rows(f"{what}{f', {steps} steps' if steps else ''}", record, rows))
        parts += [note(line) for line in _remarks(rows)]
        if steps is not None:
            parts += [table(capital(said), *cells) for said, cells in steps_tables(rows, gain)]
        if steps in summaries:
            nets = len(summaries[steps][0]["nets"])
            parts.append(table(f"Over {nets} nets: accuracy %", *summary_cells(summaries[steps], gain)))
    if "incremental" in record:
        parts.append(_chart(record))
    for steps, entries in groups_of(record.get("optimizers", ())).items():
        said, columns, cells = optimizer_cells(entries, steps)
        parts.append(table(capital(said), columns, cells))
    parts += [*_ranking(record), *_calibration(record), *_diagnostics(record)]
    return section(title, parts, level=4)


def _compliance(record: Mapping[str, Any]) -> Html | None:
    """Whether students saw what the file stores and nothing else."""
    compliant = record.get("assumption_compliant")
    if compliant is True:
        return tag(
            "p", "✓ Compliant: students were trained on what the bundle stores, no teacher was asked.", class_="good"
        )
    if compliant is False:
        live = record.get("online") or {}
        teachers = ", ".join(f"{each['section']} of {each['teacher'][:12]}" for each in live.get("checkpoints", ()))
        said = "✗ Not compliant: a live teacher answered every batch of the rows with “online” labels"
        return note(said + (f" ({teachers})." if teachers else "."), kind="warn")
    return note("Whether a live teacher was asked is not recorded.")


def _facts(record: Mapping[str, Any]) -> list[tuple[str, Child]]:
    codec, refined = record.get("codec") or {}, record.get("refined") or {}
    seeds, steps = record.get("seeds", ()), (record.get("incremental") or {}).get("steps")
    same = {True: "the same as at distillation", False: "another than at distillation"}
    pairs: list[tuple[str, Child]] = [
        ("labels", str(record["labels"])),
        ("domain", record.get("domain")),
        ("codec", codec.get("name")),
        ("refined by", refined.get("method")),
        (
            "students per net",
            f"{len(seeds)}, seeds {seeds[0]} to {seeds[-1]} under seed {record['seed']}" if seeds else None,
        ),
        ("statistic", record.get("statistic")),
        ("data set", same.get(record.get("same_source"))),  # type: ignore[arg-type]
        ("class-incremental", f"{', '.join(map(str, steps))} steps" if steps else None),
    ]
    return [(name, str(said)) for name, said in pairs if said not in (None, "")]


def _rows(title: str, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Html:
    """One line per row; columns that say the same of none or all of them are left out where they can be."""
    cells = [_cells(record, row) for row in rows]
    needless = {"seen only %", "bundle − row", "each student %"}
    columns = [column for column in COLUMNS if column[0] not in needless or any(cell[column[0]] for cell in cells)]
    lines: list[list[Child]] = [
        [tag("span", cell[name], class_="v") if name == "each student %" else cell[name] for name, _side in columns]
        for cell in cells
    ]
    return table(title, columns, lines)


def _cells(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, str]:
    values = row["accuracy"]["values"]
    each = " ".join(f"{100 * value:.1f}" for value in values) if 1 < len(values) <= MOST_VALUES else ""
    return {**score_cells(record, row), "epochs": str(row["recipe"]["epochs"]), "each student %": each}


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be said of single rows."""
    lines = []
    if any((row.get("incremental") or {}).get("leaks_future_classes") for row in rows):
        lines.append("Labels at full width (future=full): they tell students of classes to come.")
    lines += [adapter_line(row) + "." for row in rows if "features" in row]
    lines += [
        f"{row['images']}: images by the method alone, the bundle's were tuned beside labels."
        for row in rows
        if row.get("images_tuned") is False
    ]
    return lines


def _chart(record: Mapping[str, Any]) -> Html:
    """Curves over class-incremental steps."""
    picture = trusted(chart(record))
    inside = tag("figure", picture, class_="chart")
    label = "Chart: accuracy after each class-incremental step; the tables above hold the same numbers"
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=label)


def _ranking(record: Mapping[str, Any]) -> list[Child]:
    parts: list[Child] = []
    for entry in record.get("ranking", ()):
        parts += [
            table(f"DD-Ranking, {entry['arch']}", *ranking_cells(entry)),
            note(sentence(chosen_rates(entry))),
        ]
    return parts


def _calibration(record: Mapping[str, Any]) -> list[Child]:
    rows = [row for row in record["results"] if "calibration" in row]
    if not rows:
        return []
    parts: list[Child] = [table("Calibration on test data, as trained and scaled", *calibration_cells(rows))]
    if any(row["calibration"]["temperature"]["mean"] is None for row in rows):
        parts.append(note("-: a student has no temperature: no held-out images, or its NLL has no minimum on them."))
    return parts


def _diagnostics(record: Mapping[str, Any]) -> list[Child]:
    said = record.get("diagnostics")
    if said is None:
        return []
    form, scale = said["form"], said["scale"]
    of = f"{form['attention']} attention" if form["attention"] else "feature"
    parts: list[Child] = [
        table(capital(f"{said['mode']} {of} labels of layer {form['layer']} of {form['arch']}"), *measure_cells(said)),
        note(sentence(BASES[said["told_apart_by"]])),
        table(
            f"Gradients against those of real images, {said['setting']['nets']} held-out nets", *alignment_cells(said)
        ),
    ]
    if scale["warning"]:
        parts.append(note(scale["warning"], kind="warn"))
    return parts
