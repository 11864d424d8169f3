"""The table of one evaluation as an SVG picture: nets side by side, or curves over class-incremental steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..manifest import printable
from ._row_tables import Rows, groups_of, kind_names
from ._svg import COLOURS, PercentAxis, document, text

__all__ = ["chart", "write_chart"]

LEFT, TOP, BOTTOM = 70, 74, 56
"""Margins in pixels; names of rows stand in the right one, as wide as they are."""
LETTER = 6.6
"""Width of a letter in pixels at the size of the text, at most."""
LINE_PX = 15
BAR, GAP = 34, 26
"""Widths in pixels of a bar, and between the bars of two nets."""
BARS_HEIGHT = 520
PANEL = (400, 300)
"""Width and height in pixels of the frame of curves over steps."""
PER_ROW = 2
"""Panels side by side."""
MARKS = ("circle", "square", "triangle", "diamond")


def write_chart(evaluation: Mapping[str, Any], path: str, *, force: bool) -> None:
    """Write the picture.

    Raises:
        UsageError: the file exists and `force` is not set.
    """
    from ..fsio import atomic_output

    with atomic_output(path, force=force) as stream:
        stream.write(chart(evaluation).encode())


def chart(evaluation: Mapping[str, Any]) -> str:
    """Curves with a panel for each number of steps and net where classes came in steps, else bars net by net."""
    return _curves(evaluation) if "incremental" in evaluation else _bars(evaluation)


def _bars(evaluation: Mapping[str, Any]) -> str:
    """A group of bars for each net and, of several nets, one for their mean; thin lines are one std each way."""
    rows = evaluation["results"]
    groups = {net: [row for row in rows if row["arch"] == net] for net in dict.fromkeys(row["arch"] for row in rows)}
    names = kind_names(next(iter(groups.values())))
    scores = {net: [(row["accuracy"]["mean"], row["accuracy"]["std"]) for row in own] for net, own in groups.items()}
    if "summary" in evaluation:
        scores["mean of nets"] = [(entry["mean"], entry["average_std"]) for entry in evaluation["summary"]]
    group = max(len(names) * BAR, 90) + GAP
    right = LEFT + GAP / 2 + group * len(scores)
    high = max(100 * (mean + (std or 0)) for own in scores.values() for mean, std in own)
    axis = PercentAxis(0, max(high, 1), top=TOP, bottom=BARS_HEIGHT - BOTTOM)
    parts = [*_head(evaluation, "lines: one standard deviation over students"), *axis.grid(LEFT, right)]
    for place, (net, own) in enumerate(scores.items()):
        start = LEFT + GAP / 2 + place * group
        middle = start + (group - GAP) / 2
        first = middle - len(own) * BAR / 2
        for index, (mean, std) in enumerate(own):
            parts += _bar(first + index * BAR, axis, index, f"{net}: {names[index]}", mean, std)
        for line, words in enumerate(_wrapped(net, int(group / LETTER))):
            parts.append(text(middle, axis.bottom + 17 + 14 * line, words, text_anchor="middle"))
    parts.append(f'<path d="M{LEFT} {axis.top}V{axis.bottom}H{right:.1f}" fill="none" stroke="#333333"/>')
    parts += _legend(right + 18, names, lambda x, y, index: _swatch(x, y, index))
    return document(round(right + _legend_width(names)), BARS_HEIGHT, parts)


def _bar(x: float, axis: PercentAxis, index: int, name: str, mean: float, std: float | None) -> list[str]:
    """One bar, its spread and its number above both."""
    y, middle, top = axis.y(100 * mean), x + BAR / 2, axis.y(100 * (mean + (std or 0)))
    title = escape(printable(f"{name}: {100 * mean:.2f} %" + ("" if std is None else f", std {100 * std:.2f}")))
    parts = [
        f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{BAR - 4}" height="{axis.bottom - y:.1f}" {_paint(index)}>'
        f"<title>{title}</title></rect>"
    ]
    if std is not None:
        low = axis.y(100 * (mean - std))
        parts.append(f'<path d="M{middle:.1f} {top:.1f}V{low:.1f}" stroke="#333333"/>')
    return [*parts, text(middle, top - 4, f"{100 * mean:.1f}", text_anchor="middle", font_size="11")]


def _curves(evaluation: Mapping[str, Any]) -> str:
    """A panel for each number of steps and net, all on one scale; bands are one std each way."""
    panels = [
        (steps, net, [row for row in rows if row["arch"] == net])
        for steps, rows in groups_of(evaluation["results"]).items()
        for net in dict.fromkeys(row["arch"] for row in rows)
    ]
    names = kind_names(panels[0][2])
    low, high = _range(evaluation["results"])
    width, height = PANEL
    columns = min(PER_ROW, len(panels))
    right = columns * (LEFT + width)
    runs = panels[0][2][0]["accuracy"]["n"]
    leaks = any(row["incremental"]["leaks_future_classes"] for row in evaluation["results"])
    said = f"bands: one standard deviation over {runs} runs" + ("; labels tell of classes to come" if leaks else "")
    parts = _head(evaluation, said)
    several = len({net for _steps, net, _rows in panels}) > 1
    for place, (steps, net, rows) in enumerate(panels):
        left = LEFT + (place % columns) * (LEFT + width)
        top = TOP + 20 + (place // columns) * (height + BOTTOM + 30)
        title = f"{steps} steps" + (f", {net}" if several else "")
        parts.append(text(left, top - 8, title, font_size="13", font_weight="bold"))
        parts += _panel(rows, names, left, PercentAxis(low, high, top=top, bottom=top + height))
    parts += _legend(right + 18, names, lambda x, y, index: _mark(x, y, index, ""))
    lines = -(-len(panels) // columns)
    tall = max(TOP + 20 + lines * (height + BOTTOM + 30), TOP + 40 + LINE_PX * len(names))
    return document(round(right + _legend_width(names)), tall, parts)


def _panel(rows: Rows, names: Sequence[str], left: float, axis: PercentAxis) -> list[str]:
    """The curves of one number of steps."""
    width = PANEL[0]
    classes = [point["classes"] for point in rows[0]["incremental"]["curve"]]
    span = classes[-1] - classes[0]
    places = [left + 14 + (width - 28) * (count - classes[0]) / span for count in classes]
    parts = axis.grid(left, left + width)
    shown = max(1, -(-len(classes) // 10))
    for index, (x, count) in enumerate(zip(places, classes, strict=True)):
        if index % shown == 0:
            parts.append(text(x, axis.bottom + 17, str(count), text_anchor="middle"))
    parts.append(text(left + width / 2, axis.bottom + 36, "classes so far", text_anchor="middle"))
    parts.append(f'<path d="M{left} {axis.top}V{axis.bottom}H{left + width}" fill="none" stroke="#333333"/>')
    bands, lines = [], []
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        scores = [point["accuracy"] for point in row["incremental"]["curve"]]
        bands.append(_band(places, scores, axis, index))
        heights = [axis.y(100 * score["mean"]) for score in scores]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True))
        dash = ' stroke-dasharray="6 4"' if index >= len(COLOURS) else ""
        lines.append(f'<polyline points="{path}" fill="none" stroke="{_colour(index)}" stroke-width="1.6"{dash}/>')
        for x, y, score, count in zip(places, heights, scores, classes, strict=True):
            lines.append(_mark(x, y, index, f"{name}, {count} classes: {_number(score)}"))
    return [*parts, *bands, *lines]


def _band(places: Sequence[float], scores: Sequence[Mapping[str, Any]], axis: PercentAxis, index: int) -> str:
    """One std each way; nothing for single runs."""
    if any(score["std"] is None for score in scores):
        return ""
    upper = [(x, axis.y(100 * (score["mean"] + score["std"]))) for x, score in zip(places, scores, strict=True)]
    lower = [(x, axis.y(100 * (score["mean"] - score["std"]))) for x, score in zip(places, scores, strict=True)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*upper, *reversed(lower)))
    return f'<polygon points="{points}" fill="{_colour(index)}" fill-opacity="0.13"/>'


def _range(results: Rows) -> tuple[float, float]:
    """Percentages between which all curves and their bands lie."""
    scores = [point["accuracy"] for row in results for point in row["incremental"]["curve"]]
    low = min(score["mean"] - (score["std"] or 0) for score in scores)
    high = max(score["mean"] + (score["std"] or 0) for score in scores)
    return 100 * low, 100 * high


def _head(evaluation: Mapping[str, Any], said: str) -> list[str]:
    rows, test = evaluation["results"], evaluation["test"]
    nets = {row["arch"] for row in rows}
    net = f", {rows[0]['arch']}" if len(nets) == 1 else ""
    what = " on the classes so far" if "incremental" in evaluation else ""
    title = f"Test accuracy{what}, {test['name']}{net}"
    epochs = statistics.median_low(row["recipe"]["epochs"] for row in rows)
    below = f"protocol {evaluation['protocol']}, {epochs} epoch{'' if epochs == 1 else 's'}; {said}"
    return [text(20, 24, title, font_size="16"), text(20, 44, below, fill="#555555")]


def _legend(x: float, names: Sequence[str], mark: Any) -> list[str]:
    """Marks and names, one below the other."""
    parts = []
    for index, name in enumerate(names):
        y = TOP + 20 + LINE_PX * 1.3 * index
        parts += [mark(x + 5, y, index), text(x + 18, y + 4, name)]
    return parts


def _legend_width(names: Sequence[str]) -> float:
    return 18 + 18 + LETTER * max(map(len, names)) + 20


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _paint(index: int) -> str:
    """Filled, or from the ninth row on outlined: colours come again."""
    if index < len(COLOURS):
        return f'fill="{_colour(index)}"'
    return f'fill="{_colour(index)}" fill-opacity="0.3" stroke="{_colour(index)}"'


def _swatch(x: float, y: float, index: int) -> str:
    return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" {_paint(index)}/>'


def _mark(x: float, y: float, index: int, title: str) -> str:
    """A point whose shape tells rows apart without colour."""
    shape = MARKS[index % len(MARKS)]
    inside = f"<title>{escape(printable(title))}</title>" if title else ""
    fill = f'fill="{_colour(index)}"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {fill}>{inside}</circle>'
    if shape == "square":
        return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" {fill}>{inside}</rect>'
    corners = ((0, -5), (4.6, 3.4), (-4.6, 3.4)) if shape == "triangle" else ((0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0))
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {fill}>{inside}</polygon>'


def _number(score: Mapping[str, Any]) -> str:
    return f"{100 * score['mean']:.2f} %" + ("" if score["std"] is None else f", std {100 * score['std']:.2f}")


def _wrapped(name: str, letters: int) -> list[str]:
    """A net's name in lines of at most so many letters where its hyphens allow."""
    lines = [""]
    for part in name.replace("-", "-\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > letters:
            lines.append("")
        lines[-1] += part
    return lines
