"""`ddlabel recipes run`, and what `ddlabel recipes` says of tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DdlabelError, InterruptedRunError, UsageError
from ..options import opt, parse_assignments
from ..tables._results import append_results
from ..tables._table import BUDGETS, Row, find_rows, load_table, missing, steps_of, table_names
from ._options import Invocation, Talk, flag_of
from ._report import print_json, say
from ._runs import RESULTS, run_row, script_of

__all__ = ["RUN", "RunOptions", "check_no_run", "describe_tables", "run_rows", "table_listing"]

RUN = "run"
FOLDER = "ddlabel-results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How `recipes run` runs rows."""

    budget: str = opt(
        "smoke",
        "smoke: embedded digits and tiny nets, seconds; cpu: real images and narrow nets, minutes; full: as published",
        choices=BUDGETS,
    )
    folder: str = opt(FOLDER, "folder for bundles and results.jsonl")
    print: bool = opt(False, "print the commands as a shell script, and run nothing")
    device: str | None = opt(None, "device of every command: auto, cpu, cuda, cuda:N or mps; auto is auto")
    threads: int | None = opt(None, "threads of every command; auto leaves it to the command", min=1, max=1024)


def check_no_run(invocation: Invocation) -> None:
    """Options of `recipes run` mean nothing without it."""
    names = [field.name for field in dataclasses.fields(RunOptions)]
    given = [name for name in names if name in invocation.texts or invocation.flags.get(name)]
    given += [name for name in ("use",) if invocation.lists.get(name)]
    invocation.problems.extend(f"'{flag_of(name)}' is of 'ddlabel recipes run'" for name in given)


def run_rows(invocation: Invocation, talk: Talk, options: RunOptions) -> None:
    """Run the rows that are named; those that cannot be run are listed with what is missing.

    Raises:
        UsageError: no or unknown names, or nothing of them can be run.
        DdlabelError: the failure of the first row that failed, after all others were run.
    """
    words = invocation.files[1:]
    if not words:
        invocation.problems.append("no table or row given, expected such as 'ddlabel recipes run pad-1/cifar10-ipc10'")
    found = [invocation.attempt(partial(find_rows, word)) for word in words]
    use = invocation.attempt(lambda: parse_assignments(invocation.lists.get("use", ()))) or {}
    invocation.problems.extend(f"'--use {name}=' gives nothing, expected NAME=VALUE" for name in use if not use[name])
    invocation.fail_if_any()
    rows = list({row.full_name: row for several in found for row in several}.values())
    use = _as_rows_name(use, rows)
    left = {row.full_name: reasons for row in rows if (reasons := missing(row, options.budget, use))}
    runnable = [row for row in rows if row.full_name not in left]
    _check_use(use, rows)
    more = _common_words(options)
    if options.print:
        print("\n".join(["set -e", *script_of(runnable, options.budget, use, more)]))
    if not talk.quiet:
        for name, reasons in left.items():
            say(f"left out: {name}: {'; '.join(reasons)}")
    if not runnable:
        raise UsageError(f"none of {len(rows)} rows can be run with budget '{options.budget}'", field="name")
    if options.print:
        return
    folder = _folder(options.folder)
    append_results([], folder / RESULTS)  # what cannot be read or written is found before any work
    records, failures = _run_all(runnable, options.budget, use, more, folder, talk)
    if talk.json:
        failed = {name: str(error) for name, error in failures.items()}
        print_json("results", {"results": records, "left_out": left, "failed": failed})
    else:
        _print_records(records)
    for error in failures.values():
        error.reported = talk.json
        raise error


def describe_tables(invocation: Invocation, talk: Talk) -> None:
    """What tables and rows are, with the commands of rows that are named whole."""
    found = [invocation.attempt(partial(find_rows, word)) for word in invocation.files]
    invocation.fail_if_any()
    rows = list({row.full_name: row for several in found for row in several}.values())
    if talk.json:
        print_json("tables", {"rows": [_entry(row) for row in rows]})
        return
    whole = {row.full_name for row in rows} & set(invocation.files)
    print("\n".join(line for row in rows for line in (_details(row) if row.full_name in whole else _short(row))))


def table_listing() -> Iterator[str]:
    """One line per table."""
    yield "tables, whose rows 'ddlabel recipes run' runs"
    for name in table_names():
        table = load_table(name)
        yield f"  {name:22} {len(table.rows):3} rows  {table.title} ({table.source})"


def _as_rows_name(use: Mapping[str, str], rows: Sequence[Row]) -> dict[str, str]:
    """The same with names as rows have them: assignments are read with `_` where `-` was typed."""
    spelled = {name.replace("-", "_"): name for row in rows for name in (row.data, *row.needs)}
    return {spelled.get(name, name): value for name, value in use.items()}


def _check_use(use: Mapping[str, str], rows: Sequence[Row]) -> None:
    wanted = {name for row in rows for name in (row.data, *row.needs)}
    strange = sorted(use.keys() - wanted)
    if strange:
        raise UsageError(
            f"--use gives '{strange[0]}', which no row needs, expected one of {', '.join(sorted(wanted))}", field="use"
        )


def _common_words(options: RunOptions) -> list[str]:
    words = [] if options.device is None else ["--device", options.device]
    return words if options.threads is None else [*words, "--threads", str(options.threads)]


def _folder(name: str) -> Path:
    folder = Path(name)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"folder '{name}' is a file, expected a folder", field="folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"folder '{name}' cannot be made ({error.strerror})", field="folder") from error
    return folder


def _run_all(
    rows: Sequence[Row], budget: str, use: Mapping[str, str], more: Sequence[str], folder: Path, talk: Talk
) -> tuple[list[dict[str, Any]], dict[str, DdlabelError]]:
    """Records of all rows, and failures by the name of the row; an interrupt ends the run."""
    records: list[dict[str, Any]] = []
    failures: dict[str, DdlabelError] = {}
    for row in rows:
        try:
            own = run_row(row, budget, use, more, folder, quiet=talk.quiet)
            append_results(own, folder / RESULTS)
        except InterruptedRunError:
            raise
        except DdlabelError as error:
            failures[row.full_name] = error
            say(f"failed: {row.full_name}: {error}")
            continue
        records += own
    return records, failures


def _print_records(records: Sequence[Mapping[str, Any]]) -> None:
    from ._tables import console, plain_table

    if not records:
        return
    columns = [("row", "left"), ("published", "right"), ("ours", "right"), ("± 95 %", "right"), ("n", "right")]
    columns += [("unit", "left"), ("data", "left"), ("digest", "left")]
    cells = [
        (
            f"{record['row']}{' ' if record['cell'] else ''}{record['cell']}",
            _number(record["published"]),
            _number(record["ours"]),
            _number(record["interval"]),
            str(record["n"]),
            record["unit"],
            record["data"],
            record["digest"][:8],
        )
        for record in records
    ]
    console().print(plain_table(f"published and ours, budget {records[0]['budget']}", columns, cells))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"


def _short(row: Row) -> Iterator[str]:
    published = ", ".join(
        f"{cell.label}{' ' if cell.label else ''}{'-' if cell.published is None else f'{cell.published:g}'}"
        for cell in row.cells
    )
    needs = "".join(f"; needs {what}" for what in row.needs.values())
    yield f"{row.full_name:44} {row.data:14} {published}{needs}"


def _details(row: Row) -> Iterator[str]:
    yield from _short(row)
    if row.note:
        yield f"  note: {row.note}"
    for budget in BUDGETS:
        reasons = missing(row, budget, {row.data: row.data, **{name: name.upper() for name in row.needs}})
        yield f"  {budget}:" + (f" left out: {'; '.join(reasons)}" if reasons else "")
        if not reasons:
            use = {name: name.upper() for name in row.needs}
            for step in steps_of(row, budget, use):
                yield "    ddlabel " + " ".join([*step.words, "-o", step.output])
    yield ""


def _entry(row: Row) -> dict[str, Any]:
    cells = {cell.label: cell.published for cell in row.cells}
    return {"name": row.full_name, "data": row.data, "metric": row.metric, "published": cells, "needs": dict(row.needs)}
