"""What SVG pictures of scores share: colours, percent axes, text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ..manifest import printable

__all__ = ["COLOURS", "PercentAxis", "document", "round_step", "text"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d3b")
"""Told apart without red-green vision (Okabe and Ito)."""


class PercentAxis:
    """From fractions to heights in pixels: round ends, about six steps between them."""

    def __init__(self, low: float, high: float, *, top: float, bottom: float) -> None:
        """Ends that cover percentages `low` to `high`, at pixels `bottom` and `top`."""
        self.step = round_step((high - low) / 6)
        self.percent = (
            max(0.0, math.floor(low / self.step) * self.step),
            min(100.0, math.ceil(high / self.step) * self.step),
        )
        self.top, self.bottom = top, bottom

    def y(self, percent: float) -> float:
        """The height of a percentage; those beyond the ends stay at them."""
        low, high = self.percent
        return self.top + (self.bottom - self.top) * (high - min(max(percent, low), high)) / ((high - low) or 1)

    def grid(self, left: float, right: float) -> list[str]:
        """Lines across and their percentages at the left."""
        parts = []
        percent = self.percent[0]
        while percent <= self.percent[1] + 1e-9:
            y = self.y(percent)
            parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e3e3e3"/>')
            parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{percent:g} %</text>')
            percent += self.step
        return parts


def document(width: float, height: float, parts: Sequence[str]) -> str:
    """A picture of that size in pixels on white."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    return "\n".join([*head, *filter(None, parts), "</svg>"]) + "\n"


def text(x: float, y: float, words: str, **style: str) -> str:
    """Words at a place; underscores in names of attributes stand for hyphens."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(printable(words))}</text>'


def round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10 ** math.floor(math.log10(max(rough, 1e-3)))
    return float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999))
