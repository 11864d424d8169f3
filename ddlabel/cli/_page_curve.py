"""Accuracy against stored bytes of all scored bundles of a page: one picture for each way of scoring."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..digests import canonical_json
from ._curve import Point, cells_of, frontier, point_of, setting_of, svg
from ._page import MALFORMED, Child, Html, clip, note, section, table, tag, trusted
from ._page_history import Item

__all__ = ["against_bytes"]

MOST_POINTS = 28
"""Names beside a picture that do not run into each other."""
MOST_PICTURES = 8
MOST_LETTERS = 40
"""Of a name beside the picture; the table has it whole."""


def against_bytes(items: Sequence[Item]) -> Html | None:
    """Pictures with their tables; None where nothing was scored on all classes at once.

    Rows share a picture when net, protocol, test data and epochs are alike. Scores travel with a bundle from stage to
    stage: each counts once, for the first bundle that holds it.
    """
    groups = _groups(items)
    if not groups:
        return None
    shown = {setting: points for setting, points in groups.items() if len({point.stored for point in points}) > 1}
    parts: list[Child] = [_picture(setting, points) for setting, points in list(shown.items())[:MOST_PICTURES]]
    if len(shown) > MOST_PICTURES:
        parts.append(
            note(f"{len(shown) - MOST_PICTURES} more ways of scoring are left out here; the bundles have them.")
        )
    rest = len(groups) - len(shown)
    if rest:
        ways = "1 more way" if rest == 1 else f"{rest} more ways"
        alike = "of scoring (net, protocol, test data, epochs) without rows of different sizes, so without a picture"
        parts.append(note(f"{ways} {alike}; the bundles have the scores."))
    return section("Accuracy against bytes", parts, id_="bytes")


def _groups(items: Sequence[Item]) -> dict[str, list[Point]]:
    """Points by how they were scored; baselines that several bundles share once."""
    groups: dict[str, dict[Point, None]] = {}
    seen: set[bytes] = set()
    for item in items:
        for evaluation in item.bundle.manifest.evaluations:
            record = canonical_json(evaluation)
            if "incremental" in evaluation or record in seen:
                continue
            seen.add(record)
            try:
                found = [(setting_of(evaluation, row), point_of(evaluation, row)) for row in evaluation["results"]]
                for setting, point in found:
                    named = dataclasses.replace(point, images=item.name) if point.images == "bundle" else point
                    groups.setdefault(setting, {})[named] = None
            except MALFORMED:
                continue  # shown as it stands among the bundle's scores
    return {
        setting: sorted(points, key=lambda point: (point.stored, -point.mean, point.name))
        for setting, points in groups.items()
    }


def _picture(setting: str, points: list[Point]) -> Child:
    """One picture and its table, or that its numbers have no place on one."""
    best = set(frontier(points))
    drawn = _drawn(points, best)
    try:
        picture = trusted(svg([dataclasses.replace(each, images=clip(each.images, MOST_LETTERS)) for each in drawn]))
        cells = [cells_of(point, best) for point in points]
    except MALFORMED:
        return note(f"{setting}: numbers that have no place on a picture.", kind="warn")
    label = f"Chart: accuracy against stored bytes, {setting}; the table after it holds the same numbers"
    figure = tag("figure", picture, class_="chart")
    names = [("images", "left"), ("labels", "left"), ("loss", "left")]
    names += [(name, "right") for name in ("bytes", "accuracy %", "± 95 %", "n", "best for its bytes")]
    left = len(points) - len(drawn)
    return [
        tag("h3", setting),
        tag("div", figure, class_="scroll", tabindex=0, role="region", aria_label=label),
        note(f"{left} points are left out of the picture, not of the table.") if left else None,
        table("The points of the picture", names, [[each[name] for name, _side in names] for each in cells]),
    ]


def _drawn(points: list[Point], best: set[Point]) -> list[Point]:
    """The points that fit a picture: those that nothing beats before others, better ones first."""
    wanted = sorted(points, key=lambda point: (point not in best, -point.mean))
    kept = set(wanted[:MOST_POINTS])
    return [point for point in points if point in kept]
