"""Published tables as pipelines: every row of a table is a chain of commands with the numbers that the paper prints.

One file per paper, `PAPER.toml`, has its tables, and pipelines that rows share; `budgets.toml` has what holds in all of
them. A pipeline is a list of command lines as a user types them, with `{names}` for what rows and budgets choose:

    [pipelines.matched]
    steps = ["train-teacher --data {data} --recipe {recipe} {experts} -o experts.ddset", ...]
    smoke = { experts = "--experts 2 --epochs 4" }
    full = { experts = "" }

    [pad-1]
    title = "..."
    source = "arXiv:2408.03360, Table 1"
    [pad-1.rows]
    cifar10-ipc10-pad = { use = "matched", data = "cifar10", recipe = "pad/cifar10-ipc10", ipc = 10, published = 67.4 }

Where a name is given twice the later of these wins: defaults of the file, pipeline, row, and what the budget says in
`budgets.toml`, in the file, in the pipeline and in the row.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UsageError

__all__ = [
    "BUDGETS",
    "SUFFIX",
    "Cell",
    "Row",
    "Step",
    "Table",
    "axes_of",
    "find_rows",
    "load_table",
    "missing",
    "steps_of",
    "table_names",
]

FOLDER = Path(__file__).parent
BUDGETS = ("smoke", "cpu", "full")
"""How much of a row is run: embedded digits in seconds, real images on a few cores, or what the paper says."""
COMMON = "budgets.toml"
NOT_TABLES = ("pipelines", "defaults", "budgets")
TABLE_WORDS = {"title", "source", "note", "rows"}
ROW_WORDS = {"use", "data", "published", "metric", "axes", "needs", "against", "note", *BUDGETS}
"""Keys of a row that are no values of the pipeline's names."""
NAME = re.compile(r"\{([a-z_]+)\}")
MARK = "\0"
"""Around names whose values the user gives: these are put in when a line has been split into words."""
MARKED = re.compile(f"{MARK}([^{MARK}]+){MARK}")
DEPTH = 4
"""How often a value may name another one."""
SUFFIX = ".ddset"


@dataclass(frozen=True)
class Cell:
    """One number of a published table."""

    label: str
    """What tells it from others of its row, such as `ConvNet` or `sgd/gift`; empty where it is the only one."""
    published: float | None
    """As printed, in the unit of the row's metric; None where the paper gives none (a figure, or our own question)."""


@dataclass(frozen=True)
class Row:
    """One row of a published table: what makes it, and what the paper says of it."""

    table: str
    name: str
    data: str
    """Name of the data set that the paper uses."""
    metric: str
    """What its cells measure: `accuracy` in percent, or a name of `ddlabel/cli/_measure.py`."""
    cells: tuple[Cell, ...]
    against: str | None
    """The row of the same table that it is compared with; paired by seed."""
    needs: Mapping[str, str]
    """What nobody can ship, by the name under which `--use` gives it."""
    note: str
    pipeline: Mapping[str, Any]
    given: Mapping[str, Any]
    common: Mapping[str, Any]
    """Budgets and defaults of all pipelines of the file."""

    @property
    def full_name(self) -> str:
        """As it is typed: `TABLE/ROW`."""
        return f"{self.table}/{self.name}"


@dataclass(frozen=True)
class Table:
    """A published table or figure."""

    name: str
    title: str
    source: str
    note: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Step:
    """One command of a row."""

    words: tuple[str, ...]
    """Of the command line after `ddlabel`, with bundles by the names of the table's file and without `-o`."""
    output: str
    """The bundle it writes, by the name of the table's file."""
    file: str
    """The same as a file name, which says by a digest what the command and its inputs are: equal steps of different
    rows are done once."""
    line: tuple[str, ...]
    """Of the command line with bundles as file names, `-o` last."""


def table_names() -> tuple[str, ...]:
    """All tables, by paper and then in the order of its file."""
    return tuple(_tables())


def load_table(name: str) -> Table:
    """One table by name.

    Raises:
        UsageError: there is none, naming the nearest.
    """
    tables = _tables()
    if name not in tables:
        near = difflib.get_close_matches(name, tables, n=3, cutoff=0.6)
        question = f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
        raise UsageError(f"unknown table '{name[:80]}'{question}", field="name", hint="'ddlabel recipes' lists them")
    return tables[name]


def find_rows(word: str) -> tuple[Row, ...]:
    """The rows of a table, the row of that name, or all of a table whose names begin so: `pad-1`, `pad-1/cifar10`.

    Raises:
        UsageError: there is none.
    """
    table, _slash, start = word.partition("/")
    rows = load_table(table).rows
    exact = tuple(row for row in rows if row.name == start)
    found = exact or tuple(row for row in rows if row.name.startswith(start))
    if not found:
        near = difflib.get_close_matches(start, [row.name for row in rows], n=3, cutoff=0.4)
        question = f"; did you mean {' or '.join(repr(f'{table}/{match}') for match in near)}?" if near else ""
        raise UsageError(f"table '{table}' has no row '{start[:80]}'{question}", field="name")
    return found


def missing(row: Row, budget: str, use: Mapping[str, str]) -> list[str]:
    """Why a row cannot be run with a budget; empty where it can.

    Args:
        row: of a table.
        budget: one of `BUDGETS`.
        use: where the user has data sets and what else rows need, by name.
    """
    values = _values(row, budget)
    reasons = [f"{what} (--use {name}=...)" for name, what in row.needs.items() if name not in {**values, **use}]
    if "data" not in values and row.data not in use:
        reasons.insert(0, f"data set {row.data} (--use {row.data}=NAME[:PATH])")
    most = values.get("most_ipc")
    if most is not None and int(values.get("ipc", 0)) > int(most):
        reasons.append(f"more than the budget's {most} images per class")
    if values.get("skip"):
        reasons.append(str(values["skip"]))
    return reasons


def steps_of(row: Row, budget: str, use: Mapping[str, str], more: Sequence[str] = ()) -> tuple[Step, ...]:
    """The commands of a row, in order; the last one writes the bundle whose evaluation is the result.

    Args:
        row: that `missing` says nothing of.
        budget: one of `BUDGETS`.
        use: where the user has data sets and what else rows need, by name.
        more: words that every command gets, such as `--threads 1`.

    Raises:
        ValueError: a table's file names what nobody gives; tests go through all rows and budgets.
    """
    given = {"data": use.get(row.data, row.data), **use}
    values = {**{name: f"{MARK}{name}{MARK}" for name in given}, **_values(row, budget)}
    steps: list[Step] = []
    files: dict[str, str] = {}
    for template in row.pipeline["steps"]:
        words = [_with_given(word, given) for word in shlex.split(_filled(template, values, row))]
        if not words:
            continue
        *words, dash, output = words
        if dash != "-o" or not output.endswith(SUFFIX):
            raise ValueError(f"{row.full_name}: step '{template}' does not end with -o NAME{SUFFIX}")
        line = [files.get(word, word) for word in words]
        words, line = [*words, *more], [*line, *more]
        digest = hashlib.sha256("\n".join([__version__, *line]).encode()).hexdigest()[:10]
        files[output] = f"{output.removesuffix(SUFFIX)}-{digest}{SUFFIX}"
        steps.append(Step(tuple(words), output, files[output], (*line, "-o", files[output])))
    return tuple(steps)


def axes_of(row: Row, budget: str) -> dict[str, dict[str, str]]:
    """What tells the cells of a row apart: by the name of an evaluation's field, the labels and what is typed for them.

    A budget may leave labels out; their cells are not measured then.
    """
    values = _values(row, budget)
    return {axis: dict(values[axis]) for axis in row.given.get("axes", row.pipeline.get("axes", []))}


def _filled(template: str, values: Mapping[str, Any], row: Row) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"{row.full_name}: nothing says what {{{match[1]}}} is in '{template}'")
        found = values[match[1]]
        return ",".join(found.values()) if isinstance(found, Mapping) else str(found)

    text = template
    for _ in range(DEPTH):
        text = NAME.sub(value, text)
    if left := NAME.search(text):
        raise ValueError(f"{row.full_name}: {left[0]} is nested deeper than {DEPTH} in '{template}'")
    return text


def _with_given(word: str, given: Mapping[str, str]) -> str:
    """A word with what the user gave in it as it was given: spaces, quotes and braces are part of it."""
    return MARKED.sub(lambda match: given[match[1]], word)


def _values(row: Row, budget: str) -> dict[str, Any]:
    """Names and their values: the later of two wins."""
    common = row.common
    return {
        **common["defaults"],
        **{key: value for key, value in row.pipeline.items() if key not in {"steps", "axes", *BUDGETS}},
        **{key: value for key, value in row.given.items() if key not in ROW_WORDS},
        **common["everywhere"].get(budget, {}),
        **common["budgets"].get(budget, {}),
        **row.pipeline.get(budget, {}),
        **row.given.get(budget, {}),
    }


@functools.cache
def _tables() -> dict[str, Table]:
    everywhere = tomllib.loads((FOLDER / COMMON).read_text(encoding="utf-8"))
    tables: dict[str, Table] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        if path.name == COMMON:
            continue
        for table in _of_file(tomllib.loads(path.read_text(encoding="utf-8")), everywhere):
            if table.name in tables:
                raise ValueError(f"{path.name}: table '{table.name}' is in another file too")
            tables[table.name] = table
    return tables


def _of_file(found: Mapping[str, Any], everywhere: Mapping[str, Any]) -> Iterator[Table]:
    common = {
        "defaults": found.get("defaults", {}),
        "budgets": found.get("budgets", {}),
        "everywhere": everywhere,
    }
    pipelines = found.get("pipelines", {})
    for name, table in found.items():
        if name in NOT_TABLES:
            continue
        strange = sorted(table.keys() - TABLE_WORDS)
        if strange:
            raise ValueError(f"table '{name}' has '{strange[0]}', expected one of {', '.join(sorted(TABLE_WORDS))}")
        rows = tuple(_row(name, key, given, pipelines, common) for key, given in table["rows"].items())
        known = {row.name for row in rows}
        for row in rows:
            if row.against is not None and row.against not in known:
                raise ValueError(f"{row.full_name} is against '{row.against}', which is no row of the table")
        yield Table(name, table["title"], table["source"], table.get("note", ""), rows)


def _row(
    table: str, name: str, given: Mapping[str, Any], pipelines: Mapping[str, Any], common: Mapping[str, Any]
) -> Row:
    if given["use"] not in pipelines:
        raise ValueError(f"{table}/{name} uses pipeline '{given['use']}', which does not exist")
    published = given.get("published")
    cells = published if isinstance(published, Mapping) else {"": published}
    return Row(
        table=table,
        name=name,
        data=given["data"],
        metric=given.get("metric", "accuracy"),
        cells=tuple(Cell(label, None if value in {None, ""} else float(value)) for label, value in cells.items()),
        against=given.get("against"),
        needs=given.get("needs", {}),
        note=given.get("note", ""),
        pipeline=pipelines[given["use"]],
        given=given,
        common=common,
    )
