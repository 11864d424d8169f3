"""Accuracy against stored bytes: every row that was scored, as a table and as an SVG picture drawn here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..manifest import printable
from ._svg import COLOURS, PercentAxis, document, round_step
from ._tables import console, plain_table, readable_bytes

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["Point", "cells_of", "frontier", "point_of", "points_of", "print_points", "setting_of", "svg", "write_curve"]

WIDTH, HEIGHT = 960, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 250, 54, 60
"""Margins in pixels; names of points stand in the right one."""
LINE_PX = 15
"""Height of one line of names."""


@dataclass(frozen=True)
class Point:
    """One scored row."""

    images: str
    labels: str
    """Label kinds, refinement and codecs."""
    loss: str
    net: str
    stored: int
    """Bytes of images, labels and transforms."""
    mean: float
    """Accuracy, a fraction."""
    ci95: float | None
    """Half width of its 95 % interval."""
    n: int

    @property
    def group(self) -> str:
        """Points of one colour: images and label kind."""
        return f"{self.images}, {self.labels.split()[0]}"

    @property
    def name(self) -> str:
        """What stands beside the point."""
        return f"{self.images}: {self.labels}"


def points_of(bundles: Sequence[Bundle]) -> list[Point]:
    """The rows of all evaluations of every bundle, by bytes; equal rows of several bundles once.

    Scores of class-incremental steps are left out: they are of other tasks.

    Raises:
        UsageError: a bundle without scores; scores on other test data, or of another net, protocol or length.
    """
    points: dict[Point, None] = {}
    settings: dict[str, str] = {}
    for bundle in bundles:
        evaluations = [each for each in bundle.manifest.evaluations if "incremental" not in each]
        if not evaluations:
            only = "only scores of class-incremental steps" if bundle.manifest.evaluations else "no scores"
            raise UsageError(
                f"{bundle.name} holds {only}, --curve needs those of all classes at once",
                field="curve",
                hint="run 'ddlabel evaluate' first, without --incremental",
            )
        for evaluation in evaluations:
            for result in evaluation["results"]:
                settings[setting_of(evaluation, result)] = bundle.name
                points[point_of(evaluation, result)] = None
    if len(settings) > 1:
        (one, first), (two, second) = list(settings.items())[:2]
        raise UsageError(
            f"scores of different kinds do not share a picture: {first} has {one}, {second} has {two}",
            field="curve",
            hint="pass bundles that were scored alike",
        )
    return sorted(points, key=lambda point: (point.stored, -point.mean, point.name))


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: each is better than all that cost as much or less."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.stored, -each.mean)):
        if not best or point.mean > best[-1].mean:
            best.append(point)
    return best


def print_points(points: Sequence[Point]) -> None:
    """The table of the picture."""
    best = set(frontier(points))
    columns = [(name, "left") for name in ("images", "labels", "loss")]
    columns += [(name, "right") for name in ("bytes", "accuracy %", "± 95 %", "n", "best for its bytes")]
    rows = [[cells[name] for name, _side in columns] for cells in (cells_of(point, best) for point in points)]
    title = f"accuracy against stored bytes, {points[0].net}"
    console().print(plain_table(title, columns, rows))


def write_curve(points: Sequence[Point], path: str, *, force: bool) -> None:
    """Write the picture.

    Raises:
        UsageError: the file exists and `force` is not set.
    """
    from ..fsio import atomic_output

    with atomic_output(path, force=force) as stream:
        stream.write(svg(points).encode())


def svg(points: Sequence[Point]) -> str:
    """The picture: bytes on a logarithmic axis, accuracy with 95 % intervals, names at the right edge.

    The line joins the points that no other beats at their bytes.
    """
    axes = _Axes(points)
    groups = list(dict.fromkeys(point.group for point in points))
    colours = {group: COLOURS[index % len(COLOURS)] for index, group in enumerate(groups)}
    parts = [
        f'<text x="{LEFT}" y="24" font-size="16">Test accuracy against stored bytes (images and labels)</text>',
        f'<text x="{LEFT}" y="42" fill="#555555">bars: 95 % intervals over students; line: best for its bytes</text>',
        *_grid_lines(axes),
        _frontier_line(frontier(points), axes),
        *(_mark(point, axes, colours[point.group]) for point in points),
        *_names(points, axes, colours),
    ]
    return document(WIDTH, HEIGHT, parts)


class _Axes:
    """From bytes and fractions to pixels."""

    def __init__(self, points: Sequence[Point]) -> None:
        sizes = [point.stored for point in points]
        low = [100 * (point.mean - (point.ci95 or 0)) for point in points]
        high = [100 * (point.mean + (point.ci95 or 0)) for point in points]
        spread = max(max(sizes) / min(sizes), 1.05) ** 0.06
        self.bytes = (min(sizes) / spread, max(sizes) * spread)
        self.percent = PercentAxis(min(low), max(high), top=TOP, bottom=HEIGHT - BOTTOM)

    def x(self, stored: float) -> float:
        low, high = (math.log(end) for end in self.bytes)
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(stored) - low) / (high - low)

    def y(self, percent: float) -> float:
        return self.percent.y(percent)


def point_of(evaluation: Mapping[str, Any], result: Mapping[str, Any]) -> Point:
    """The point of one row of an evaluation."""
    labels = str(result["labels"])
    kind, _plus, beside = labels.partition("+")
    said: list[str | None] = [labels]
    if kind == str(evaluation["labels"]).partition("+")[0] and kind != "hard":
        said += [(evaluation.get("refined") or {}).get("method"), (evaluation.get("codec") or {}).get("name")]
    if beside:
        said += ["+", ((evaluation.get("privileged") or {}).get("codec") or {}).get("name")]
    labels = " ".join(filter(None, said))
    accuracy, recipe = result["accuracy"], result["recipe"]
    several = len({(row["recipe"]["optimizer"], row["recipe"]["lr"]) for row in evaluation["results"]}) > 1
    how = f", {recipe['optimizer']} {recipe['lr']:g}" if several else ""
    return Point(
        images=str(result["images"]),
        labels=labels,
        loss=result["loss"]["name"] + how,
        net=str(result["arch"]),
        stored=int(result["stored_bytes"]),
        mean=float(accuracy["mean"]),
        ci95=accuracy["ci95"],
        n=int(accuracy["n"]),
    )


def setting_of(evaluation: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What must be alike for accuracies to be compared."""
    test = evaluation["test"]
    return (
        f"{result['arch']} on {test['images']} test images of {test['name']}, protocol {evaluation['protocol']}, "
        f"{result['recipe']['epochs']} epochs"
    )


def cells_of(point: Point, best: set[Point]) -> dict[str, str]:
    """What a table says of a point, by the name of its column; `best` are those that nothing beats."""
    return {
        "images": point.images,
        "labels": point.labels,
        "loss": point.loss,
        "bytes": readable_bytes(point.stored),
        "accuracy %": f"{100 * point.mean:.2f}",
        "± 95 %": "-" if point.ci95 is None else f"{100 * point.ci95:.2f}",
        "n": str(point.n),
        "best for its bytes": "yes" if point in best else "",
    }


def _grid_lines(axes: _Axes) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = axes.percent.grid(LEFT, right)
    for stored in _ticks(*axes.bytes):
        x = axes.x(stored)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#f0f0f0"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{readable_bytes(stored)}</text>')
    parts.append(
        f'<text x="{(LEFT + right) / 2:.1f}" y="{bottom + 42}" text-anchor="middle">stored bytes, logarithmic</text>'
    )
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333333"/>')
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers of bytes between two ends."""
    for factors in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(found) >= 3:
            return found[:: max(1, math.ceil(len(found) / 8))]
    step = round_step((high - low) / 5)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _frontier_line(points: Sequence[Point], axes: _Axes) -> str:
    path = " ".join(f"{axes.x(point.stored):.1f},{axes.y(100 * point.mean):.1f}" for point in points)
    return f'<polyline points="{path}" fill="none" stroke="#999999" stroke-dasharray="5 4"/>'


def _mark(point: Point, axes: _Axes, colour: str) -> str:
    x, y = axes.x(point.stored), axes.y(100 * point.mean)
    bar = ""
    if point.ci95 is not None:
        top, bottom = (axes.y(100 * (point.mean + sign * point.ci95)) for sign in (1, -1))
        bar = f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}" stroke-opacity="0.5"/>'
    title = escape(printable(f"{point.name}, {point.loss}: {point.stored} bytes, {100 * point.mean:.2f} %"))
    return f'{bar}<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"><title>{title}</title></circle>'


def _names(points: Sequence[Point], axes: _Axes, colours: Mapping[str, str]) -> list[str]:
    """Names in the right margin, as near to their points as they fit without touching, joined by a thin line."""
    ordered = sorted(points, key=lambda point: (-point.mean, point.stored))
    wanted = [axes.y(100 * point.mean) for point in ordered]
    heights: list[float] = []
    for y in wanted:
        heights.append(max(y, heights[-1] + LINE_PX) if heights else y)
    overflow = heights[-1] - (HEIGHT - BOTTOM)
    if overflow > 0:
        heights[-1] -= overflow
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - LINE_PX)
    edge = WIDTH - RIGHT + 14
    parts = []
    for point, y in zip(ordered, heights, strict=True):
        x0, y0, colour = axes.x(point.stored), axes.y(100 * point.mean), colours[point.group]
        parts.append(
            f'<line x1="{x0 + 6:.1f}" y1="{y0:.1f}" x2="{edge - 3}" y2="{y:.1f}" '
            f'stroke="{colour}" stroke-opacity="0.35" stroke-width="0.8"/>'
        )
        name = escape(printable(point.name))
        parts.append(f'<text x="{edge}" y="{y + 4:.1f}" fill="{colour}" font-size="11">{name}</text>')
    return parts
