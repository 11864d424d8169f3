"""PAD's tables: numbers as the paper prints them, in its layout, beside those of the rows; rows run on digits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddlabel.cli import app
from ddlabel.tables._table import Row, axes_of, find_rows, load_table, missing, steps_of

COLUMNS = ("cifar10-ipc1", "cifar10-ipc10", "cifar10-ipc50", "cifar10-ipc500", "cifar10-ipc1000")
COLUMNS += ("cifar100-ipc1", "cifar100-ipc10", "cifar100-ipc50", "cifar100-ipc100")
COLUMNS += ("tiny-imagenet-ipc1", "tiny-imagenet-ipc10", "tiny-imagenet-ipc50")
TABLE_1 = """
Random 15.4 31.0 50.6 73.2 78.4 4.2 14.6 33.4 42.8 1.4 5.0 15.0
DC 28.3 44.9 53.9 72.1 76.6 12.8 25.2 - - - - -
DM 26.0 48.9 63.0 75.1 78.8 11.4 29.7 43.6 - 3.9 12.9 24.1
DSA 28.8 52.1 60.6 73.6 78.7 13.9 32.3 42.8 - - - -
CAFE 30.3 46.3 55.5 - - 12.9 27.8 37.9 - - - -
MTT 46.2 65.4 71.6 - - 24.3 39.7 47.7 49.2 8.8 23.2 28.0
TESLA 48.5 66.4 72.6 - - 24.8 41.7 47.9 49.2 - - -
FTD 46.0 65.3 73.2 - - 24.4 42.5 48.5 49.7 10.5 23.4 28.2
ATT 48.3 67.7 74.5 - - 26.1 44.2 51.2 - 11.0 25.8 -
DATM 46.9 66.8 76.1 83.5 85.5 27.9 47.2 55.0 57.5 17.1 31.1 39.7
PAD 47.2 67.4 77.0 84.6 86.7 28.4 47.8 55.9 58.5 17.7 32.3 41.6
KIP 49.9 62.7 68.6
FRePo 46.8 65.5 71.7
RCIG 53.9 69.1 73.5
"""
NETS = ("ConvNet", "ConvNet-BN", "RN18", "RN18-BN", "VGG11", "AlexNet", "LeNet", "MLP")
TABLE_2 = """
C10 Random 78.38 80.25 84.58 87.21 80.81 80.75 61.85 50.98 75.60
DATM 85.50 85.23 87.22 88.13 84.65 85.14 66.70 52.40 79.37
PAD 86.90 85.67 86.95 88.09 84.34 85.83 67.28 53.62 79.84
C100 Random 42.80 46.38 47.48 55.62 42.69 38.05 25.91 20.66 39.95
DATM 57.50 57.75 57.98 63.34 55.10 55.69 33.57 26.39 50.92
PAD 58.50 58.66 58.15 63.17 55.02 55.93 33.87 27.12 51.30
Tiny Random 15.00 24.21 17.73 28.07 22.51 14.03 9.25 5.85 17.08
DATM 39.68 40.32 36.12 43.14 38.35 35.10 12.41 9.02 31.76
PAD 41.02 40.88 36.08 42.96 38.64 35.02 13.17 9.68 32.18
"""
SETS = {"C10": "cifar10-ipc1000", "C100": "cifar100-ipc100", "Tiny": "tiny-imagenet-ipc50"}
SMALL = """
pad-3a cifar100-ipc50-random ConvNet/RN18/VGG11/AlexNet 33.46 31.95 32.18 26.65
pad-3a cifar100-ipc50-ftd ConvNet/RN18/VGG11/AlexNet 48.90 46.65 43.24 42.20
pad-3a cifar100-ipc50-datm ConvNet/RN18/VGG11/AlexNet 55.03 51.71 45.38 45.74
pad-3a cifar100-ipc50-pad ConvNet/RN18/VGG11/AlexNet 55.91 52.35 44.97 45.92
pad-3b cifar10-ipc10-* none/fiem/fiex/both 66.7 66.9 67.2 67.4
pad-3c cifar10-ipc10-ir50-aee* 20/40/60 66.23 66.07 65.92
pad-3c cifar10-ipc10-ir75-aee* 20/40/60 67.36 67.34 66.58
pad-3c cifar10-ipc10-ir80-aee* 20/40/60 67.26 67.08 66.47
pad-4a cifar10-ipc*-loss 1/10/500 45.74 66.45 83.47
pad-4a cifar10-ipc*-uncertainty 1/10/500 46.22 66.99 84.22
pad-4a cifar10-ipc*-el2n 1/10/500 47.23 67.38 84.63
pad-4b cifar10-ipc1-kept* 100/75/50/25 47.2 46.56 45.98 41.32
pad-4b cifar10-ipc10-kept* 100/75/50/25 67.2 67.34 66.86 65.15
pad-4b cifar10-ipc500-kept* 100/75/50/25 83.71 83.82 84.23 84.64
pad-4c cifar10-ipc*-none 10/50 67.2 76.5
pad-4c cifar10-ipc*-loss 10/50 67.3 77.0
pad-4c cifar10-ipc*-depth 10/50 67.7 77.3
pad-5a printed-kept* 80/90/95 0.6 1.1 1.4
pad-5b cifar10-ipc10-* deep25/deep50/deep75/shallow25 62.2 57.7 51.1 66.9
pad-5c cifar100-ipc*-sre2l 1/10/50 25.4 28.2 57.2
pad-5c cifar100-ipc*-fiex 1/10/50 26.7 29.3 57.9
pad-6 cifar10-ipc*-dc 1/10/500 27.8 44.7 71.4
pad-6 cifar10-ipc*-dc-fiex 1/10/500 29.1 46.3 71.9
pad-6 cifar10-ipc*-dm 1/10/500 26.4 48.4 75.1
pad-6 cifar10-ipc*-dm-fiex 1/10/500 29.2 50.3 76.3
pad-7 cifar10-ipc*-dc 10/500 44.9 72.2
pad-7 cifar10-ipc*-dc-fiem 10/500 45.2 73.4
pad-7 cifar10-ipc*-dm 10/500 48.9 75.1
pad-7 cifar10-ipc*-dm-fiem 10/500 49.5 76.3
pad-8a cifar10-ipc*-directly 500/1000 84.6 86.7
pad-8a cifar10-ipc*-gradually 500/1000 84.2 86.4
pad-8a cifar100-ipc*-directly 50/100 55.9 58.5
pad-8a cifar100-ipc*-gradually 50/100 55.6 58.3
pad-8b cifar100-ipc50-* pad 56.2
pad-9 cifar10-ipc*-rded 1/10/500 23.5 50.2 87.2
pad-9 cifar100-ipc*-rded 1/10/50 19.6 48.1 57.0
pad-9 tiny-imagenet-ipc*-rded 1/10/50 12.0 39.6 47.6
pad-9 cifar10-ipc*-pad 1/10/500 26.8 62.3 89.6
pad-9 cifar100-ipc*-pad 1/10/50 16.4 50.2 59.3
pad-9 tiny-imagenet-ipc*-pad 1/10/50 10.1 37.2 48.5
"""
TABLES = ("pad-1", "pad-2", *dict.fromkeys(line.split()[0] for line in SMALL.strip().splitlines()))
USE = dict.fromkeys(("cifar10", "cifar100", "tiny-imagenet"), "digits")


def printed() -> Iterator[tuple[str, float]]:
    """Every number, by `TABLE/ROW` and, where a row has several, `TABLE/ROW CELL`."""
    for line in TABLE_1.strip().splitlines():
        method, *numbers = line.split()
        for column, number in zip(COLUMNS, numbers, strict=False):
            if number != "-":
                yield f"pad-1/{column}-{method.lower()}", float(number)
    yield from (("pad-1/cifar10-whole", 84.8), ("pad-1/cifar100-whole", 56.2), ("pad-1/tiny-imagenet-whole", 37.6))
    data = ""
    for line in TABLE_2.strip().splitlines():
        words = line.split()
        data = SETS[words.pop(0)] if words[0] in SETS else data
        row = f"pad-2/{data}-{words[0].lower()}"
        yield from ((f"{row} {net}", float(number)) for net, number in zip(NETS, words[1:9], strict=True))
        yield f"{row}-mean", float(words[9])
    for line in SMALL.strip().splitlines():
        table, row, keys, *numbers = line.split()
        for key, number in zip(keys.split("/"), numbers, strict=True):
            yield (f"{table}/{row.replace('*', key)}" if "*" in row else f"{table}/{row} {key}"), float(number)


def rows() -> Iterator[Row]:
    for table in TABLES:
        yield from load_table(table).rows


def test_every_printed_number_is_a_cell_and_no_other() -> None:
    """The tables hold what the paper prints, number by number."""
    labels = {"", "points over MTT", "online"}
    found = {
        row.full_name + ("" if cell.label in labels else f" {cell.label}"): cell.published
        for row in rows()
        for cell in row.cells
        if cell.published is not None
    }

    assert found == dict(printed())


@pytest.mark.parametrize("table", ["pad-3c", "pad-4b", "pad-4c", "pad-5b", "pad-7"])
def test_rows_of_an_ablation_differ_in_their_commands(table: str) -> None:
    """At every budget each row makes images of its own, so that a difference is not one of noise."""
    for budget in ("smoke", "cpu", "full"):
        last = [
            steps_of(row, budget, USE)[-1].file
            for row in load_table(table).rows
            if not missing(row, budget, USE) and "ipc500" not in row.name
        ]
        assert len(set(last)) == len(last) > 1, budget


def test_experts_are_shared_where_a_table_compares_what_is_matched() -> None:
    """PAD's masks are compared on the same experts, and DATM's experts at full budget serve all images per class."""
    kept = [find_rows(f"pad-4b/cifar10-ipc{ipc}-kept{share}")[0] for ipc in (1, 10, 500) for share in (100, 25)]
    datm = [find_rows(f"pad-1/cifar10-ipc{ipc}-datm")[0] for ipc in (1, 10, 50, 500, 1000)]

    for rows in (kept, datm):
        assert len({steps_of(row, "full", USE)[0].file for row in rows}) == 1
    assert len({steps_of(row, "cpu", USE)[0].file for row in kept[:4]}) == 1


def test_shared_experts_keep_every_epoch_that_rows_match() -> None:
    """What the full budget keeps for all images per class covers what each recipe keeps for its own."""
    from ddlabel.recipes import load_recipe

    for row in rows():
        words = steps_of(row, "full", USE)[0].words if not missing(row, "full", USE) else ()
        if "--keep-epochs" in words:
            first, last = map(int, words[words.index("--keep-epochs") + 1].split("-"))
            own = load_recipe(row.given["recipe"]).stages["train-teacher"]["keep_epochs"].split("-")
            assert first <= int(own[0]) < int(own[1]) <= last, row.full_name


def test_budgets_of_tables_with_several_nets() -> None:
    """Small budgets leave nets out, never name one under another's label."""
    for row in (*load_table("pad-2").rows, *load_table("pad-3a").rows):
        full = axes_of(row, "full").get("arch", {})
        for budget in ("smoke", "cpu"):
            for label, net in axes_of(row, budget).get("arch", {}).items():
                assert net.partition("-")[0] == full[label].partition("-")[0]
                assert net.endswith("-bn") == full[label].endswith("-bn")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "pad-1/cifar10-ipc10-random",
        "pad-1/cifar10-ipc10-tesla",
        "pad-2/cifar10-ipc1000-pad",
        "pad-2/cifar10-ipc1000-pad-mean",
        "pad-4c/cifar10-ipc10-loss",
        "pad-5a/cifar10-ipc10-kept80",
        "pad-5c/cifar100-ipc10-fiex",
        "pad-6/cifar10-ipc10-dc-fiex",
        "pad-7/cifar10-ipc10-dm-fiem",
        "pad-9/cifar10-ipc10-rded",
        "pad-9/tiny-imagenet-ipc10-pad",
    ],
)
def test_a_row_of_each_kind_runs_on_digits(name: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All commands of the row, from the first to the score."""
    row = find_rows(name)[0]
    app.dispatch(["recipes", "run", name, "--folder", str(shared), "--use", f"{row.data}=digits", "--json", "--quiet"])

    results = json.loads(capsys.readouterr().out)["results"]
    axes = axes_of(row, "smoke")
    assert [result["cell"] for result in results] == (list(next(iter(axes.values()))) if axes else [""])
    assert all(0 < result["ours"] < 100 and result["n"] == 2 for result in results)
    assert all(result["stored_bytes"] > 0 and result["seeds"] == [0, 1] for result in results)
    assert all(line.startswith("ddlabel ") for result in results for line in result["commands"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that rows share what they have in common."""
    return tmp_path_factory.mktemp("pad")
