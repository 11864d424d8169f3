"""LADD's tables: numbers as the paper prints them, typed a second time by column, and two rows that are run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddlabel.tables._table import find_rows, load_table, missing, steps_of

SUBSETS = ("imagenette", "imagefruit", "imagewoof", "imagemeow", "imagesquawk")
USE = {"imagenette": "imagenet-nette:X", "cifar10": "cifar10:X", "imagenet-1k": "imagenet:X"}


def printed(table: str) -> dict[str, list[float | None]]:
    """Published numbers by row, in the order of its cells."""
    return {row.name: [cell.published for cell in row.cells] for row in load_table(table).rows}


def by_column(names: list[str], *columns: str) -> dict[str, list[float]]:
    """Rows from columns that are written as one string each."""
    cells = zip(*(column.split() for column in columns), strict=True)
    return {name: [float(value) for value in row] for name, row in zip(names, cells, strict=True)}


def test_table_1_reads_down_by_method_and_across_by_images() -> None:
    """Columns of the spec: method, kind; lines: ipc."""
    columns = {
        ("mtt", ""): "38.3 49.5 54.6 58.2",
        ("mtt", "-more"): "42.6 50.5 55.4 59.2",
        ("mtt", "-ladd"): "40.9 52.6 55.6 59.6",
        ("ast", ""): "39.0 51.4 53.2 55.5",
        ("ast", "-more"): "41.8 52.1 54.2 56.9",
        ("ast", "-ladd"): "41.9 60.1 62.0 59.4",
        ("glad-mtt", ""): "34.3 48.0 52.3 53.3",
        ("glad-mtt", "-more"): "41.8 48.6 52.4 54.9",
        ("glad-mtt", "-ladd"): "40.7 58.4 62.8 66.5",
    }
    expected = {
        f"ipc{ipc}-{base}{kind}": [float(value)]
        for (base, kind), column in columns.items()
        for ipc, value in zip((1, 5, 10, 20), column.split(), strict=True)
    }

    assert printed("ladd-1") == expected


def test_table_2_by_net() -> None:
    """Six rows, a column per net, the average last."""
    names = ["mtt", "mtt-ladd", "ast", "ast-ladd", "glad-mtt", "glad-mtt-ladd"]
    nets = (
        "61.2 62.1 63.8 66.8 61.2 69.0",
        "49.6 50.6 48.3 58.1 49.0 60.0",
        "57.3 59.0 54.9 63.6 55.6 65.5",
        "46.4 51.0 45.6 59.4 43.3 56.7",
        "35.9 37.8 31.0 32.6 32.6 42.5",
        "50.1 51.8 48.7 56.1 48.3 58.7",
    )

    assert printed("ladd-2") == by_column(names, *nets)


def test_tables_4_and_5_agree_where_they_say_the_same() -> None:
    """Baseline and LADD, one string per method."""
    four = {
        "mtt": ("45.3 31.7 28.3 33.0 41.5", "49.2 35.5 31.0 36.4 48.2"),
        "ast": ("47.3 32.9 29.3 32.0 35.1", "53.4 40.3 33.0 36.0 43.2"),
        "glad-mtt": ("44.2 27.5 24.5 30.0 34.0", "53.9 32.5 26.1 33.7 42.1"),
    }
    expected = {
        f"{data}-{base}{kind}": [float(value)]
        for base, pair in four.items()
        for kind, column in zip(("", "-ladd"), pair, strict=True)
        for data, value in zip(SUBSETS, column.split(), strict=True)
    }
    methods = ["mtt", "ast", "glad-mtt", "glad-gm", "glad-dm", "tesla"]
    plain, ladd = "45.3 47.3 44.2 39.8 37.2 19.2", "49.2 53.4 53.9 52.1 49.9 27.3"
    five = by_column(methods, plain) | by_column([f"{method}-ladd" for method in methods], ladd)

    assert printed("ladd-4") == expected
    assert printed("ladd-5") == five
    assert all(five[base + kind] == expected[f"imagenette-{base}{kind}"] for base in four for kind in ("", "-ladd"))


def test_table_6_averages_are_those_of_its_nets() -> None:
    """Typed by net; the last column follows from the others to the printed digit."""
    names = ["full-hard", "full-soft", "full-both", "sub-hard", "sub-dense", "sub-both", "ladd"]
    nets = (
        "58.7 60.1 60.8 54.3 62.5 59.8 66.5",
        "45.5 44.5 44.1 49.7 53.8 54.7 55.7",
        "50.6 51.2 51.9 49.5 57.0 55.4 61.2",
        "37.0 37.7 36.3 37.3 49.4 48.9 50.2",
        "29.4 28.8 29.2 29.6 32.6 34.6 35.9",
        "44.2 44.5 44.5 44.1 51.1 50.7 53.9",
    )
    found = printed("ladd-6")

    assert found == by_column(names, *nets)
    assert all(
        sum(values[:5]) / 5 == pytest.approx(values[5], abs=0.051) for values in by_column(names, *nets).values()
    )


def test_table_s1_by_grid() -> None:
    """Columns are grids of 3, 5, 7 and 9; lines sizes of windows."""
    columns = {3: "47.0 48.8 48.9 48.4", 5: "53.4 53.9 52.1 50.5", 7: "55.0 55.2 51.4 50.9", 9: "56.3 54.2 52.0 51.6"}
    expected = {
        f"r{ratio}-n{grid}": [float(value)]
        for grid, column in columns.items()
        for ratio, value in zip(("1of2", "5of8", "3of4", "7of8"), column.split(), strict=True)
    }

    assert printed("ladd-s1") == expected
    line = " ".join(steps_of(find_rows("ladd-s1/r7of8-n9")[0], "cpu", USE)[3].words)
    assert line.endswith("--grid 9 --ratio 7/8")


def test_tables_3_and_s2_and_figures() -> None:
    """Short ones; what figures do not print is None."""
    three = by_column(
        ["tesla", "sre2l", "rded-i-h", "rded-i-s", "ladd-rded-i", "rded-online"], "7.7 21.3 12.4 23.6 28.8 42.0"
    )
    methods = ["dc", "dm", "dsa", "cafe", "frepo", "mtt", "ftd", "datm", "datm-rerun", "ladd"]
    one = by_column([f"ipc1-{name}" for name in methods], "28.3 26.0 28.8 30.3 46.8 46.2 46.0 46.9 47.6 48.6")
    ten = by_column([f"ipc10-{name}" for name in methods], "44.9 48.9 52.1 46.3 65.5 65.4 65.3 66.8 65.5 67.2")

    assert printed("ladd-3") == three
    assert printed("ladd-s2") == one | ten
    assert printed("ladd-fig-2") == {"labels": [0.002], "labeler": [None], "distilling": [None, None]}
    assert {value for row in printed("ladd-fig-3").values() for value in row} == {None}
    assert {value for row in printed("ladd-fig-5").values() for value in row} == {None}


def test_what_cannot_be_run_says_why() -> None:
    """A generator for GLaD beyond smoke, absent methods, ipc 20 with budget cpu; ablations take MTT's images there."""

    def reasons(row: str, budget: str) -> str:
        return "; ".join(missing(find_rows(row)[0], budget, USE))

    assert "StyleGAN-XL" in reasons("ladd-5/glad-dm-ladd", "cpu")
    assert "CAFE is not built" in reasons("ladd-s2/ipc1-cafe", "full")
    assert "more than the budget's 11" in reasons("ladd-1/ipc20-mtt", "cpu")
    assert not reasons("ladd-1/ipc10-mtt-more", "cpu")
    assert not reasons("ladd-6/sub-dense", "cpu")
    assert "StyleGAN-XL" in reasons("ladd-6/sub-dense", "full")
    assert not reasons("ladd-5/glad-dm-ladd", "smoke")


def test_rows_of_a_table_share_experts_images_and_labeler() -> None:
    """Baseline and LADD differ in labels alone; one labeler serves all methods of a data set."""
    steps = {name: steps_of(find_rows(f"ladd-5/{name}")[0], "cpu", USE) for name in ("mtt", "mtt-ladd", "ast-ladd")}
    files = {name: [step.file for step in found] for name, found in steps.items()}

    assert files["mtt"][:2] == files["mtt-ladd"][:2]
    assert files["mtt-ladd"][2] == files["ast-ladd"][2]
    assert files["mtt-ladd"][0] != files["ast-ladd"][0]


@pytest.mark.slow
def test_the_cheapest_and_the_richest_row_run(run_cli: Callable, tmp_path: Path) -> None:
    """A counted schedule, and GLaD with dense labels against its baseline; students of one seed are paired."""
    rows = ["ladd-fig-2/distilling", "ladd-5/glad-mtt-ladd"]
    done = run_cli("recipes", "run", *rows, "--folder", tmp_path, "--json")
    assert done.code == 0, done.err
    records = {(record["row"], record["cell"]): record for record in json.loads(done.out)["results"]}

    mean = records["ladd-5/glad-mtt-ladd", "5-CAE"]
    assert (mean["n"], len(mean["values"]), mean["published"]) == (2, 2, 53.9)
    assert mean["ours"] == pytest.approx(sum(mean["values"]) / 2, abs=1e-4)
    passes = 3 * 100 * 50 * 13_000 + 9 * 5_000 * 20 * 20
    forward = 4 * 93_440  # of the smallest net on digits
    assert records["ladd-fig-2/distilling", "MTT"]["ours"] == pytest.approx(passes * forward / 1e15, rel=1e-4)
