"""The picture of `evaluate --diagnose`: labels on their principal axes, and alignment of gradients with real images."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..manifest import printable

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

__all__ = ["diagnostics_png", "draw_diagnostics"]

WIDTH, HEIGHT = 960, 400
SCATTER = (40, 58, 400, 360)
"""Left, top, right and bottom of the points, in pixels."""
LEGEND = 414
BARS = (640, 900)
"""Left and right end of the bars."""
FINE = 4
"""Marks are drawn this much larger, then averaged down, for smooth edges."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d3b")
"""Told apart without red-green vision (Okabe and Ito)."""
CORNERS = (0, 4, 3, 5)
"""Marks of the first eight classes are discs, then squares, triangles, pentagons: colours repeat, pairs do not."""
NAMED = 14
"""Classes in the legend."""
MARK_PX = 4.2
CORNER_SIZE = 1.3
"""Shapes with corners reach further out than discs of equal area."""
INK, PALE, RULE = "#222222", "#666666", "#dddddd"
VARIANTS = {"none": ("no labels", "#999999"), "noise": ("noise", "#e69f00"), "labels": ("labels", "#0072b2")}


def draw_diagnostics(record: Mapping[str, Any], path: str, *, force: bool) -> None:
    """Write the picture of an evaluation's `diagnostics`.

    Raises:
        UsageError: the file exists and `force` is not set.
    """
    from ..fsio import atomic_output

    with atomic_output(path, force=force) as stream:
        stream.write(diagnostics_png(record))


def diagnostics_png(record: Mapping[str, Any]) -> bytes:
    """A PNG of 960 x 400: points coloured by class on the left, bars of mean cosines on the right.

    Dots on the bars are single nets: variants differ where their dots do.
    """
    from PIL import Image, ImageDraw

    fine = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), "#ffffff")
    marks = _Marks(ImageDraw.Draw(fine))
    places, axis = _places(record["picture"]["points"]), _Axis(record["alignment"])
    _draw_points(marks, record["picture"], places)
    _draw_bars(marks, record["alignment"], axis)
    image = fine.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    words = _Words(ImageDraw.Draw(image))
    _name_points(words, record)
    _name_bars(words, record, axis)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


class _Marks:
    """Shapes in final pixels on the fine canvas."""

    def __init__(self, draw: ImageDraw) -> None:
        self.draw = draw

    def class_mark(self, x: float, y: float, label: int) -> None:
        """A class's mark: colour and shape, with a white rim."""
        corners = CORNERS[label // len(COLOURS) % len(CORNERS)]
        for radius, colour in ((MARK_PX + 0.7, "#ffffff"), (MARK_PX, COLOURS[label % len(COLOURS)])):
            if corners:
                circle = (x * FINE, y * FINE, CORNER_SIZE * radius * FINE)
                self.draw.regular_polygon(circle, corners, fill=colour)
            else:
                self.dot(x, y, radius, colour)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        """A disc."""
        ends = [(x - radius) * FINE, (y - radius) * FINE, (x + radius) * FINE, (y + radius) * FINE]
        self.draw.ellipse(ends, fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """A filled rectangle; ends in any order."""
        ends = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
        self.draw.rectangle([end * FINE for end in ends[:2]] + [end * FINE - 1 for end in ends[2:]], fill=colour)


class _Words:
    """Text in final pixels, sharp."""

    def __init__(self, draw: ImageDraw) -> None:
        self.draw = draw

    def write(self, x: float, y: float, text: str, *, size: int = 12, colour: str = INK, anchor: str = "ls") -> None:
        """One line; `anchor` as Pillow's: `l`, `m` or `r`, and `s` for the base line."""
        from PIL import ImageFont

        self.draw.text((x, y), printable(text), fill=colour, font=ImageFont.load_default(size), anchor=anchor)


class _Axis:
    """Cosines to pixels; 0 is always on it."""

    def __init__(self, alignment: Mapping[str, Any]) -> None:
        cosines = [value for name in VARIANTS for stage in _stages(alignment, name) for value in stage["cosine_by_net"]]
        self.low, self.high = min(0.0, *cosines), max(0.0, *cosines)
        if self.high == self.low:
            self.high = 1.0

    def x(self, cosine: float) -> float:
        left, right = BARS
        share: float = (cosine - self.low) / (self.high - self.low)
        return left + (right - left) * share


def _stages(alignment: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [alignment[name]["init"], alignment[name]["trained"]]


def _places(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Pixels of the points: one scale for both axes, so that distances are true."""
    left, top, right, bottom = SCATTER
    spans = [(min(point[axis] for point in points), max(point[axis] for point in points)) for axis in (0, 1)]
    room = (right - left - 24, bottom - top - 24)
    scales = [room[axis] / (high - low) for axis, (low, high) in enumerate(spans) if high > low]
    scale = min(scales, default=1.0)
    middle = [(low + high) / 2 for low, high in spans]
    return [
        ((left + right) / 2 + (x - middle[0]) * scale, (top + bottom) / 2 - (y - middle[1]) * scale) for x, y in points
    ]


def _draw_points(marks: _Marks, picture: Mapping[str, Any], places: Sequence[tuple[float, float]]) -> None:
    left, top, right, bottom = SCATTER
    marks.box(left, top, right, bottom, RULE)
    marks.box(left + 1, top + 1, right - 1, bottom - 1, "#ffffff")
    for (x, y), label in zip(places, picture["hard"], strict=True):
        marks.class_mark(x, y, label)
    for row, label in enumerate(_named(picture)):
        marks.class_mark(LEGEND + 6, _legend_y(row) - 4, label)


def _name_points(words: _Words, record: Mapping[str, Any]) -> None:
    left, _top, right, bottom = SCATTER
    picture, form = record["picture"], record["form"]
    what = "x".join(str(side) for side in form["shape"])
    of = f"{form['attention']} attention" if form["attention"] else "feature"
    words.write(left, 26, f"{record['mode']} {of} labels", size=16)
    words.write(left, 46, f"{what}, layer {form['layer']} of {form['arch']}", colour=PALE)
    shares = [f"{100 * share:.0f} %" for share in picture["explained"]]
    axes = f"principal axes: {shares[0]} (across) and {shares[1]} (up) of the variance"
    words.write((left + right) / 2, bottom + 20, axes, colour=PALE, anchor="ms")
    named, classes = _named(picture), picture["classes"]
    for row, label in enumerate(named):
        words.write(LEGEND + 16, _legend_y(row), _short(classes[label], 14))
    more = len(set(picture["hard"])) - len(named)
    if more:
        words.write(LEGEND, _legend_y(len(named)), f"and {more} more", colour=PALE)


def _draw_bars(marks: _Marks, alignment: Mapping[str, Any], axis: _Axis) -> None:
    zero = axis.x(0)
    for group in (0, 1):
        for row, (name, (_said, colour)) in enumerate(VARIANTS.items()):
            y, stage = _bar_y(group, row), _stages(alignment, name)[group]
            marks.box(zero, y, axis.x(stage["cosine"]), y + 18, colour)
            for cosine in stage["cosine_by_net"]:
                marks.dot(axis.x(cosine), y + 9, 3.4, "#ffffff")
                marks.dot(axis.x(cosine), y + 9, 2.4, INK)
        marks.box(zero - 0.5, _bar_y(group, 0) - 4, zero + 0.5, _bar_y(group, 2) + 22, INK)


def _name_bars(words: _Words, record: Mapping[str, Any], axis: _Axis) -> None:
    setting, left = record["setting"], BARS[0] - 80
    words.write(left, 26, "Gradients: cosine with those of real images", size=16)
    words.write(left, 46, "mean over classes, on held-out nets; one dot per net", colour=PALE)
    for group, title in enumerate(("nets at init", f"nets after {setting['steps']} real steps")):
        words.write(left, _bar_y(group, 0) - 10, title)
        for row, (name, (said, _colour)) in enumerate(VARIANTS.items()):
            y, stage = _bar_y(group, row) + 14, _stages(record["alignment"], name)[group]
            words.write(min(axis.x(0), BARS[0]) - 8, y, said, anchor="rs")
            end = max(axis.x(value) for value in (0.0, stage["cosine"], *stage["cosine_by_net"]))
            words.write(end + 8, y, f"{stage['cosine']:.3f}")
    ours, noise = (record["measures"][name] for name in ("labels", "noise"))
    facts = [
        f"{title} {_number(ours[key])} (noise {_number(noise[key])})"
        for title, key in (("Fisher ratio", "fisher_ratio"), ("effective rank", "effective_rank"))
    ]
    words.write(left, 352, ";  ".join(facts), colour=PALE)
    scale = record["scale"]
    pull = f"lambda_reg {scale['lambda_reg']:g}: labels pull {_number(scale['rho'])} times as strongly as classes"
    words.write(left, 372, pull, colour="#b00020" if scale["warning"] else PALE)


def _bar_y(group: int, row: int) -> int:
    return 92 + 128 * group + 26 * row


def _legend_y(row: int) -> int:
    return SCATTER[1] + 14 + 20 * row


def _named(picture: Mapping[str, Any]) -> list[int]:
    """Classes in the legend: the first of those that have points."""
    return sorted(set(picture["hard"]))[:NAMED]


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2] + ".."
