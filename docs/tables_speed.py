"""Write docs/results-speed.md: what works cost beside the published loops, out of the benchmark's JSON alone.

    python tests/benchmarks/bench.py --threads 2 --rounds 3 --json speed.json && python docs/tables_speed.py speed.json

is all there is to type, on a machine that does nothing else: about twelve minutes on two cores. Several files make one
page, such as one of a GPU (`--device cuda`) beside one of the CPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FORMAT = 1
HEAD = """# What the work costs

Written by `python docs/tables_speed.py` from the JSON of `tests/benchmarks/bench.py`; do not edit.
Seconds are medians of one repetition; every figure is of a fresh process, the published loop and ours in turns.
The published loops are written out in `tests/benchmarks/works`, run torch as it comes, and return the same tensors.
A ratio is reference / ours: the median of the rounds (of two at most for `mtt-large`), the least and the most.
GFLOP/s count the useful multiplications and additions of convolutions and linear layers, alike for both sides; their
share is of the best float32 matrix product measured in the same process and threads.
MB are the peak of the whole process, torch included, and in brackets what the work itself added; on a GPU what torch
allocated there. Growth is our time and our peak against the first size of the work.
"""
COLUMNS = (
    "work",
    "size",
    "reference, s",
    "ours, s",
    "ratio (least to most)",
    "target",
    "GFLOP/s",
    "share of peak",
    "a second",
    "reference, MB",
    "ours, MB",
    "growth: time, memory",
)


def main(files: Sequence[str]) -> None:
    """Write the page."""
    if not files:
        raise SystemExit(__doc__)
    (HERE / "results-speed.md").write_text(page([json.loads(Path(file).read_text("utf-8")) for file in files]), "utf-8")


def page(reports: Sequence[Mapping[str, Any]]) -> str:
    """The text: a section for each report."""
    for report in reports:
        if report["format"] != FORMAT:
            raise SystemExit(f"expected a report of format {FORMAT}, this one has {report['format']}")
    return "\n".join([HEAD, *(part for report in reports for part in section(report))])


def section(report: Mapping[str, Any]) -> list[str]:
    """Where a report comes from, its table, and what each work is."""
    about = {row["work"]: row["about"] for row in report["rows"]}
    title = f"## {report['origin']['hardware']}, {report['origin']['threads']} thread(s)\n"
    return [
        title,
        origin(report["origin"]),
        table(report["rows"]),
        *(f"- `{name}`: {of}." for name, of in about.items()),
        "",
    ]


def origin(said: Mapping[str, Any]) -> str:
    """Machine, versions and command."""
    return (
        f"`{said['command']}`, commit `{said['commit']}`; {said['cores']} cores, torch {said['torch']}, Python "
        f"{said['python']}; {said['rounds']} rounds.\n"
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a size."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A size: what was not measured is a dash."""
    ours, theirs = row["sides"]["ours"], row["sides"].get("reference")
    unit = f"{ours['items_per_second']:,.0f} {row['unit']}" if ours["items_per_second"] is not None else "-"
    grown = row["growth"]
    return (
        f"`{row['work']}`",
        row["size"],
        seconds(theirs["seconds"]) if theirs else "-",
        seconds(ours["seconds"]),
        ratio(row),
        "-" if row["target"] is None else f"{row['target']:g}",
        "-" if ours["gflops"] is None else f"{ours['gflops']:.0f}",
        "-" if ours["share"] is None else f"{ours['share']:.0%}",
        unit,
        memory(row, theirs),
        memory(row, ours),
        f"{grown['seconds']:.2f}, {'-' if row['processes'] else format(grown['peak_mb'], '.2f')}",
    )


def ratio(row: Mapping[str, Any]) -> str:
    """Of seconds; bold where a target is met."""
    found = row.get("ratio_seconds")
    if found is None:
        return "-"
    median = f"{found['median']:.2f}"
    met = row["target"] is not None and found["median"] >= row["target"]
    return f"{f'**{median}**' if met else median} ({found['least']:.2f} to {found['most']:.2f})"


def memory(row: Mapping[str, Any], side: Mapping[str, Any] | None) -> str:
    """Peak, and what the work added."""
    if side is None or row["processes"]:
        return "-"
    return f"{side['peak_mb']:,.0f} ({side['own_mb']:,.0f})"


def seconds(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main(sys.argv[1:])
