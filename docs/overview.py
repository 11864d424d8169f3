"""Draw docs/overview.svg: what each stage of the demo stores, and what students learn from it.

Usage: ddlabel demo --folder demo && python docs/overview.py demo

Reads random, base, soft, dense and gift.ddset (pictures and labels) and their -scored.ddset (bytes and accuracies).
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import ddlabel
from ddlabel.bundle import Bundle
from ddlabel.cli._svg import text

HERE = Path(__file__).parent
ROWS = {
    "random": ("Random real images", "distill --method random"),
    "base": ("Distilled images", "distill --method dm"),
    "soft": ("+ soft labels", "augment-labels --kind soft"),
    "dense": ("+ dense labels, 9 views", "augment-labels --kind dense"),
    "gift": ("the same, refined", "refine --method gift"),
}
TILE, GAP, LEFT, RIGHT, TOP, HEIGHT, WIDTH = 40, 4, 206, 660, 54, 62, 880
BAR, LEAST = 130, 50.0
"""Pixels of the longest bar, and the accuracy in percent at which bars begin."""
FOOT = (
    "Small charts: what a label says of each of the ten classes, one chart for each view of the image.",
    f"Long bars begin at {LEAST:g} %, thin lines are the standard deviation of 3 students; bytes of images and labels.",
)

STYLE = """<style>
  .paper { fill: #ffffff } .line { stroke: #d0d7de } .frame { fill: #f6f8fa }
  .ink { fill: #1f2328 } .pale { fill: #59636e }
  .bar { fill: #0072b2 } .mark { stroke: #0072b2 } .spread { stroke: #1f2328 } .real { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .line { stroke: #3d444d } .frame { fill: #151b23 }
    .ink { fill: #f0f6fc } .pale { fill: #9198a1 }
    .bar { fill: #56b4e9 } .mark { stroke: #56b4e9 } .spread { stroke: #f0f6fc } .real { fill: #656c76 }
  }
</style>"""


def main(folder: str) -> None:
    """Write the picture."""
    height = TOP + HEIGHT * len(ROWS) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="What each stage stores and gains">',
        STYLE,
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
        head(16, "stage"),
        head(LEFT, "what is stored: one image per class, and labels"),
        head(RIGHT, "bytes and test accuracy"),
    ]
    for row, name in enumerate(ROWS):
        parts += stage(Path(folder), name, TOP + HEIGHT * row)
    for y, words in zip((height - 28, height - 12), FOOT, strict=True):
        parts.append(text(16, y, words, **{"class": "pale", "font_size": "12"}))
    parts.append("</svg>")
    (HERE / "overview.svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


def head(x: float, words: str) -> str:
    """The title of a column."""
    return text(x, 28, words, **{"class": "pale", "font_weight": "600"})


def stage(folder: Path, name: str, top: float) -> Iterator[str]:
    """One row: words, ten tiles, bytes, a bar of accuracy."""
    title, command = ROWS[name]
    middle = top + HEIGHT / 2
    yield f'<line class="line" x1="16" x2="{WIDTH - 16}" y1="{top - 6:.0f}" y2="{top - 6:.0f}"/>'
    yield text(16, middle - 6, title, **{"class": "ink", "font_weight": "600"})
    yield text(16, middle + 12, command, **{"class": "pale", "font_family": "monospace", "font_size": "11"})
    bundle = ddlabel.load(str(folder / f"{name}.ddset"))
    for place in range(len(bundle.classes)):
        x, y = LEFT + place * (TILE + GAP), middle - TILE / 2 - 3
        if bundle.soft is None:
            yield picture(bundle.to_pixels(bundle.images[place : place + 1])[0], x, y)
        else:
            yield from charts(bundle.soft[place], str(bundle.domain), x, y)
    yield from result(Bundle.open(folder / f"{name}-scored.ddset"), name, middle)


def picture(pixels: Tensor, x: float, y: float) -> str:
    """An image (c, h, w) uint8, its pixels enlarged."""
    shown = pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy()
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{TILE}" height="{TILE}" style="image-rendering: pixelated" '
        f'href="data:image/png;base64,{data}"/>'
    )


def charts(labels: Tensor, domain: str, x: float, y: float) -> Iterator[str]:
    """Labels (v, k) of one image as bars by class, one small chart for each view."""
    views, classes = labels.shape
    side = round(views**0.5)
    cell = TILE / side
    signed = domain == "unit"
    heights = labels / labels.abs().max() / 2 if signed else torch.softmax(labels, dim=1)
    yield f'<rect class="frame" x="{x:.1f}" y="{y:.1f}" width="{TILE}" height="{TILE}"/>'
    bars = []
    for view in range(views):
        left, floor = x + view % side * cell, y + (view // side + (0.5 if signed else 1)) * cell
        for number in range(classes):
            tall = float(heights[view, number]) * (cell - 1)
            if abs(tall) >= 0.1:
                bars.append(f"M{left + (number + 0.5) * cell / classes:.1f} {floor:.1f}v{-tall:.1f}")
    yield f'<path class="mark" stroke-width="{cell / classes * 0.9:.1f}" d="{"".join(bars)}"/>'


def result(scored: Bundle, name: str, middle: float) -> Iterator[str]:
    """Stored bytes, and the accuracy as a bar with its standard deviation."""
    row = scored.manifest.evaluations[-1]["results"][0]
    percent, spread = 100 * row["accuracy"]["mean"], 100 * row["accuracy"]["std"]
    scale = BAR / (100 - LEAST)
    end = RIGHT + (percent - LEAST) * scale
    colour = "real" if name == "random" else "bar"
    yield f'<rect class="{colour}" x="{RIGHT}" y="{middle - 18:.0f}" width="{end - RIGHT:.1f}" height="14"/>'
    low, high, y = end - spread * scale, end + spread * scale, middle - 11
    yield f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.0f}" y2="{y:.0f}"/>'
    yield text(RIGHT + BAR + 16, middle - 6, f"{percent:.1f} %", **{"class": "ink", "font_weight": "600"})
    yield text(RIGHT, middle + 14, f"{row['stored_bytes']:,} bytes", **{"class": "pale"})


if __name__ == "__main__":
    main(*sys.argv[1:])
