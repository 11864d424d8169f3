"""Write docs/questions.md and its pictures: what our own rows say of questions that the papers leave open.

Run `python docs/questions.py` after adding rows of the tables question-* to docs/results.jsonl; a test compares the page
and the pictures. Numbers in the text come from the results; the words are ours and are to be read again with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ddlabel.cli._curve import Point
from ddlabel.cli._svg import COLOURS, PercentAxis, document, text
from ddlabel.tables._results import Record, latest, paired

HERE = Path(__file__).parent
FILE = HERE / "results.jsonl"
BUDGET = "cpu"
BAR, GAP, LEFT, TOP, HEIGHT = 30, 34, 70, 60, 380
"""Of bars, in pixels: width, space between groups, margins, height of the picture."""
Groups = Mapping[str, Mapping[str, Record]]


class Results:
    """The latest record of every number at one budget."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.numbers = latest(records)

    def __call__(self, row: str, cell: str = "") -> Record:
        return self.numbers[f"question-{row}", cell, BUDGET]

    def accuracy(self, row: str, cell: str = "") -> str:
        """`41.2`, in percent."""
        return f"{self(row, cell)['ours']:.1f}"

    def gain(self, row: str, other: str, cell: str = "", other_cell: str | None = None) -> str:
        """`+1.2 ± 0.3`: the first minus the second, paired by seed, with its standard error."""
        mean, error = paired(self(row, cell), self(other, cell if other_cell is None else other_cell))
        return f"{mean:+.1f} ± {error:.1f}"


def bars(title: str, below: str, groups: Groups) -> str:
    """An SVG of bars side by side in groups; thin lines are 95 % intervals over students."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    places = [len(group) * BAR + GAP for group in groups.values()]
    right = LEFT + GAP / 2 + sum(places)
    every = [record for group in groups.values() for record in group.values()]
    axis = PercentAxis(0, max(each["ours"] + (each["interval"] or 0) for each in every), top=TOP, bottom=HEIGHT - 40)
    parts = [text(20, 24, title, font_size="16"), text(20, 42, below, fill="#555555"), *axis.grid(LEFT, right)]
    start = LEFT + GAP / 2
    for (group, own), width in zip(groups.items(), places, strict=True):
        for index, (name, record) in enumerate(own.items()):
            parts += bar(start + index * BAR, axis, COLOURS[names.index(name) % len(COLOURS)], record)
        parts.append(text(start + (width - GAP) / 2, axis.bottom + 18, group, text_anchor="middle"))
        start += width
    parts.append(f'<path d="M{LEFT} {axis.top}V{axis.bottom}H{right:.1f}" fill="none" stroke="#333333"/>')
    for index, name in enumerate(names):
        y = TOP + 20 + 20 * index
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{right + 18:.1f}" y="{y - 9}" width="11" height="11" fill="{colour}"/>')
        parts.append(text(right + 36, y, name))
    return document(round(right + 36 + 6.6 * max(map(len, names)) + 20), HEIGHT, parts)


def bar(x: float, axis: PercentAxis, colour: str, record: Record) -> list[str]:
    """One bar, its interval and its number."""
    ours, reach = record["ours"], record["interval"] or 0
    y, middle, high = axis.y(ours), x + BAR / 2, axis.y(ours + reach)
    return [
        f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{BAR - 4}" height="{axis.bottom - y:.1f}" fill="{colour}"/>',
        f'<path d="M{middle:.1f} {high:.1f}V{axis.y(ours - reach):.1f}" stroke="#333333"/>',
        text(middle, high - 4, f"{ours:.1f}", text_anchor="middle", font_size="10"),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def points(records: Mapping[str, Record]) -> list[Point]:
    """For the picture of accuracy against bytes: names are `images: labels`."""
    return [
        Point(
            images=name.partition(": ")[0],
            labels=name.partition(": ")[2],
            loss="",
            net="",
            stored=record["stored_bytes"],
            mean=record["ours"] / 100,
            ci95=None if record["interval"] is None else record["interval"] / 100,
            n=record["n"],
        )
        for name, record in records.items()
    ]
