"""Write docs/results.md: published numbers beside ours, from the file of results that `ddlabel recipes run` adds to.

Run `python docs/results.py` (or give another file of results, whose page goes to stdout) after adding lines to
docs/results.jsonl; a test compares the page.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ddlabel.tables._results import Record, latest, paired, read_results
from ddlabel.tables._table import Row, Table, load_table, missing, table_names

HERE = Path(__file__).parent
FILE = HERE / "results.jsonl"
HEAD = """# Published tables and ours

Written by `python docs/results.py` from [results.jsonl](results.jsonl); do not edit.
Every line of that file has the commands, seeds, versions, hardware, commit and the content digest of the scored bundle.

`ddlabel recipes run ROW --budget BUDGET --use cifar10=folder:DIR` makes a row again and adds its line, and
`ddlabel recipes ROW` prints its commands at every budget:

- `smoke`: embedded digits and tiny nets, seconds. Shows that the commands run; its numbers say nothing of the paper and
  are not printed here.
- `cpu`: 10,000 real images, ConvNets of width 32, few short experts and students. Compare such rows with each other,
  and with published ones only in kind.
- `full`: as published, which takes an accelerator.

*ours* is the mean test accuracy of the last epoch over *n* students, ± the half width of its 95 % interval.
*gain* is the difference to the row named in the last column, as published and ours, the latter paired by seed with its
standard error, and with the number of pairs where not all seeds are in both.
*bytes* are those of the images and labels that the students saw.
"""
Numbers = Mapping[tuple[str, str, str], Record]


def page(records: Sequence[Record]) -> str:
    """The page of a file of results."""
    numbers = latest(records)
    tables = [load_table(name) for name in table_names()]
    parts = [HEAD, "## What was run\n", *coverage(tables, numbers)]
    for table in tables:
        for budget in ("full", "cpu"):
            rows = [line for row in table.rows for line in row_lines(row, budget, numbers)]
            if rows:
                parts += [*heading(table, budget), *rows, *origin(table, budget, numbers), ""]
    parts += ["## What is missing\n", *wanting(tables)]
    return "\n".join(parts)


def coverage(tables: Sequence[Table], numbers: Numbers) -> Iterator[str]:
    """How many rows of each table were run."""
    yield "| table | rows | published numbers | run in full | at cpu budget | at smoke budget | what it is |"
    yield "|---|---|---|---|---|---|---|"
    for table in tables:
        ran = {budget: {row for row, _cell, with_ in numbers if with_ == budget} for budget in ("full", "cpu", "smoke")}
        counts = [sum(row.full_name in rows for row in table.rows) for rows in ran.values()]
        printed = sum(cell.published is not None for row in table.rows for cell in row.cells)
        yield f"| `{table.name}` | {len(table.rows)} | {printed} | {' | '.join(map(str, counts))} | {table.title} |"
    yield ""


def heading(table: Table, budget: str) -> Iterator[str]:
    yield f"## {table.title}: {budget}\n"
    note = table.note.rstrip(".")
    yield f"`{table.name}`, {table.source}.{f' {note[0].upper()}{note[1:]}.' if note else ''}\n"
    yield "| row | cell | published | ours | ± 95 % | n | bytes | published gain | our gain | against | digest |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"


def row_lines(row: Row, budget: str, numbers: Numbers) -> Iterator[str]:
    """One line of Markdown for each cell that was measured."""
    printed = {cell.label: cell.published for cell in row.cells}
    for label, published in printed.items():
        record = numbers.get((row.full_name, label, budget))
        if record is None:
            continue
        unit = "" if record["unit"] == "%" else f" {record['unit']}"
        stored = f"{record['stored_bytes']:,}" if record["stored_bytes"] else ""
        values = [
            f"`{row.name}`",
            label,
            number(published),
            f"{number(record['ours'], 2)}{unit}",
            number(record["interval"], 2),
            str(record["n"]),
            stored,
            *gains(row, label, budget, numbers),
            f"`{record['digest'][:12]}`",
        ]
        yield f"| {' | '.join(values)} |"


def gains(row: Row, label: str, budget: str, numbers: Numbers) -> list[str]:
    """Published and our difference to the row that it is compared with, and that row's name."""
    if row.against is None:
        return ["", "", ""]
    base = next(other for other in load_table(row.table).rows if other.name == row.against)
    theirs = {cell.label: cell.published for cell in base.cells}
    own = {cell.label: cell.published for cell in row.cells}
    to = label if label in theirs else next(iter(theirs))
    published = ""
    first, second = own[label], theirs[to]
    if first is not None and second is not None:
        published = f"{first - second:+.1f}"
    record, other = numbers[row.full_name, label, budget], numbers.get((base.full_name, to, budget))
    if other is None:
        return [published, "", f"`{row.against}`"]
    return [published, difference(record, other), f"`{row.against}`"]


def difference(record: Record, other: Record) -> str:
    """Of two rows, paired by the seeds of both: `+1.2 ± 0.3`, with the number of pairs where one has more seeds.

    Nothing where they have no seed in common, or one where either has more.
    """
    most = max(record["n"], other["n"])
    common = len(set(record["seeds"]) & set(other["seeds"]))
    if common < min(2, most):
        return ""
    mean, error, pairs = paired(record, other)
    said = f"{mean:+.2f}" + ("" if error is None else f" ± {error:.2f}")
    return said if pairs == most else f"{said} ({pairs} pairs)"


def origin(table: Table, budget: str, numbers: Numbers) -> Iterator[str]:
    """Under a table: data, seeds, hardware, versions and commits of its rows."""
    own = [
        record
        for (row, _cell, with_), record in numbers.items()
        if row.partition("/")[0] == table.name and with_ == budget
    ]
    stand_ins = {
        f"{record['data']} (in place of {record['stands_for']})"
        if record["data"] != record["stands_for"]
        else record["data"]
        for record in own
    }
    hosts = {machine(record["host"]) for record in own}
    commits = {f"`{record['commit']}`" for record in own if record["commit"]}
    seeds = {", ".join(map(str, record["seeds"])) for record in own}
    yield ""
    yield (
        f"Data: {'; '.join(sorted(stand_ins))}. Seeds {' or '.join(sorted(seeds))}. {'; '.join(sorted(hosts))}. "
        f"Commits {', '.join(sorted(commits))}."
    )


def machine(host: Record) -> str:
    """What a stage ran on, in words."""
    threads = f"{host['threads']} thread{'' if host['threads'] == 1 else 's'}"
    return f"{host['device']}, {threads}, torch {host['versions']['torch']}"


def wanting(tables: Sequence[Table]) -> Iterator[str]:
    """What rows need that nobody can ship, and what is left out at the full budget, with the number of rows."""
    yield "Rows need their data set (`--use NAME=...`); these need more, or are not built:\n"
    yield "| table | rows | what is missing |"
    yield "|---|---|---|"
    for table in tables:
        reasons = Counter(reason for row in table.rows for reason in missing(row, "full", {row.data: row.data}))
        for reason, count in reasons.items():
            yield f"| `{table.name}` | {count} | {reason} |"
    yield ""
    yield "| data set | rows | in tables |"
    yield "|---|---|---|"
    sets = Counter(row.data for table in tables for row in table.rows)
    for name, count in sorted(sets.items()):
        users = [f"`{table.name}`" for table in tables if any(row.data == name for row in table.rows)]
        yield f"| `{name}` | {count} | {', '.join(users)} |"
    yield ""


def number(value: float | None, digits: int = 1) -> str:
    """A number as tables have it; small ones with three digits that count."""
    if value is None:
        return ""
    return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:.{digits}f}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(page(read_results(Path(sys.argv[1]))), end="")
    else:
        (HERE / "results.md").write_text(page(read_results(FILE)), encoding="utf-8")
        print("wrote docs/results.md", file=sys.stderr)
