"""DCPI's tables (arXiv:2410.01611): the paper's numbers, typed here a second time, and rows run on digits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ddlabel.cli._measure import METRICS, measure
from ddlabel.recipes import load_recipe
from ddlabel.tables._table import axes_of, find_rows, load_table, missing, steps_of
from tests.conftest import run_command

CHOSEN = ["random", "least-confidence", "entropy", "margin", "glister", "craig", "herding", "k-center", "forgetting"]
MOVED = ["herding-dcpi", "k-center-dcpi", "forgetting-dcpi"]
TABLE_1 = {  # one line per data set and images per class, one column per method: CHOSEN, then MOVED
    "cifar10-ipc1": "13.5 10.7 12.2 8.9 11.5 18.1 15.3 16.4 15.3 27.9 29.7 30.0",
    "cifar10-ipc5": "20.0 10.5 14.1 15.8 16.9 19.5 23.5 22.4 19.1 37.3 40.0 39.7",
    "cifar10-ipc10": "27.1 10.8 14.8 20.3 23.0 19.0 25.1 23.1 23.9 45.8 46.2 46.6",
    "cifar10-ipc20": "35.8 17.9 19.6 24.8 28.4 27.8 26.7 30.4 26.9 51.0 50.8 51.3",
    "cifar10-ipc50": "43.0 23.1 23.8 31.3 30.0 30.2 34.9 36.7 39.5 54.0 54.3 54.5",
    "cifar100-ipc1": "4.3 2.1 1.7 3.0 2.9 4.3 4.0 4.8 4.1 14.0 13.5 14.0",
    "cifar100-ipc5": "9.5 3.6 3.7 6.2 7.1 9.0 6.2 6.7 7.8 20.4 20.0 20.1",
    "cifar100-ipc10": "14.5 6.6 6.7 9.0 10.4 13.6 8.1 10.0 10.4 25.5 25.9 25.8",
    "cifar100-ipc20": "19.5 9.0 9.0 12.7 13.3 14.6 13.1 15.9 14.1 28.9 29.1 29.3",
    "cifar100-ipc50": "29.5 16.4 17.1 20.7 27.2 20.1 18.4 21.8 22.3 31.4 32.0 32.2",
}
HOSTS = ["dc", "mtt", "datm", "rded"]
TABLE_2 = {  # one line per data set and images per class: base/DCPI of HOSTS
    "cifar10-ipc1": "28.3/31.5 46.2/47.4 46.9/48.0 23.5/28.2",
    "cifar10-ipc10": "44.9/47.3 65.4/65.9 66.8/68.1 50.2/50.6",
    "cifar10-ipc50": "53.9/55.3 71.6/72.7 76.1/76.2 68.4/68.5",
    "cifar100-ipc1": "12.8/14.9 24.3/25.6 27.9/28.4 19.6/32.5",
    "cifar100-ipc10": "25.2/25.6 39.7/41.0 47.2/47.6 48.1/48.3",
    "cifar100-ipc50": "29.8/31.6 47.7/48.4 55.0/55.2 57.0/57.1",
    "tiny-imagenet-ipc1": "- 8.8/11.2 17.1/17.6 12.0/15.2",
    "tiny-imagenet-ipc10": "- 23.2/24.9 - 39.6/40.8",
}
RANDOM_2 = {"cifar10": "15.4 31.0 50.6", "cifar100": "4.2 14.6 33.4"}
ASSIGNED = {  # Table 11, in HOSTS' order but for RDED
    "cifar10-ipc1": "28.3 40.8 46.3",
    "cifar10-ipc10": "45.1 56.2 64.5",
    "cifar10-ipc50": "54.1 66.1 73.7",
    "cifar100-ipc1": "12.7 23.9 26.6",
    "cifar100-ipc10": "25.1 38.1 36.2",
    "cifar100-ipc50": "29.8 47.4 55.5",
    "tiny-imagenet-ipc1": "- 8.1 15.6",
}
TABLE_3 = {  # 1 image per class, base and DCPI; 10, base and DCPI; one column per subset
    "ipc1-mtt": "47.7 28.6 26.6 30.7 45.2",
    "ipc1-mtt-dcpi": "50.5 31.3 29.1 34.0 46.6",
    "ipc10-mtt": "63.0 35.8 40.3 40.4 60.0",
    "ipc10-mtt-dcpi": "65.7 37.5 43.0 43.8 62.2",
}
SUBSETS = ["imagenette", "imagewoof", "imagefruit", "imagemeow", "imageyellow"]
TABLE_4 = {  # one line per images per class, columns as printed
    1: "0.1 6.6 11.2 0.6 5.9 6.4 7.7 6.8 7.0",
    10: "21.3 42.0 43.7 30.9 48.3 50.9 17.8 20.4 21.3",
    50: "46.8 56.5 58.1 60.8 61.2 64.1 27.9 38.4 39.6",
}
COLUMNS_4 = [f"resnet18-{name}" for name in ("sre2l", "rded", "dcpi")]
COLUMNS_4 += [f"resnet101-{name}" for name in ("sre2l", "rded", "dcpi")]
COLUMNS_4 += [f"convnet-{name}" for name in ("tesla", "rded", "dcpi")]
TABLE_5 = {  # one line per net: herding, forgetting, k-center, each without and with DCPI
    "LeNet": "23.0 32.4 25.5 35.0 21.6 34.4",
    "MLP": "21.3 30.4 23.8 33.1 19.7 31.4",
    "ResNet": "26.2 36.9 24.7 38.1 24.0 36.0",
    "VGG": "24.1 36.4 21.0 35.3 21.5 34.3",
    "ConvNet": "25.1 46.3 24.0 47.1 23.1 46.5",
    "AlexNet": "23.3 33.2 25.5 35.7 21.3 36.0",
}
ROWS_5 = ["herding", "herding-dcpi", "forgetting", "forgetting-dcpi", "k-center", "k-center-dcpi"]
TABLE_6 = {  # one line per net: DC, + feature, + spatial attention; MTT, + channel attention
    "LeNet": "16.8 24.7 23.7 29.1 31.6",
    "MLP": "28.0 32.3 27.9 29.1 29.4",
    "ResNet": "36.2 37.5 37.7 35.1 36.7",
    "VGG": "35.4 35.8 35.6 31.4 37.9",
    "ConvNet": "44.5 47.1 45.6 45.6 47.0",
    "AlexNet": "20.1 27.3 25.3 24.0 34.1",
}
ROWS_6 = ["ipc10-dc", "ipc10-dc-feature", "ipc10-dc-spatial", "ipc1-mtt", "ipc1-mtt-channel"]
TABLE_7 = {  # one line per tested net: base of the six nets of synthesis, then DCPI
    "LeNet": "23.3 28.0 22.0 22.7 16.8 32.2 28.8 28.5 25.9 28.3 24.7 34.6",
    "ConvNet": "35.8 29.0 36.2 33.5 44.5 36.9 46.6 46.5 45.9 46.4 47.1 46.2",
    "ResNet": "29.7 21.8 33.6 17.5 36.2 31.5 36.1 36.5 36.1 35.8 37.5 36.1",
}
NETS_7 = ["lenet", "mlp", "resnet", "vgg", "convnet", "alexnet"]
TABLE_12 = "28.91 29.20 30.42 30.53 30.67 30.74"
TABLE_13 = {
    "cifar10": "28.30 31.13 31.54 31.47 31.90 32.28",
    "cifar100": "12.80 13.96 14.10 14.38 14.64 14.86",
}
TERMS_13 = ["dc", "feature", "feature-ce", "feature-infonce", "feature-ce-infonce", "feature-soft"]


def published(table: str) -> dict[str, float]:
    """The numbers of a table by row, or by row and cell where a row has several; unprinted ones are left out."""
    return {
        f"{row.name}/{cell.label}".rstrip("/"): cell.published
        for row in load_table(table).rows
        for cell in row.cells
        if cell.published is not None
    }


def numbers(names: list[str], text: str) -> dict[str, float]:
    return {name: float(word) for name, word in zip(names, text.split(), strict=True) if word != "-"}


def hosts(names: list[str]) -> dict[str, float]:
    expected = {}
    for column, text in TABLE_2.items():
        for name, pair in zip(HOSTS, text.split(), strict=True):
            if pair != "-" and name in names:
                base, ours = pair.split("/")
                expected |= {f"{column}-{name}": float(base), f"{column}-{name}-dcpi": float(ours)}
    return expected


def test_table_1_has_the_numbers_of_the_paper() -> None:
    expected = {}
    for start, text in TABLE_1.items():
        expected |= numbers([f"{start}-{name}" for name in CHOSEN + MOVED], text)

    assert published("dcpi-1") == expected


def test_tables_2_10_and_11_have_the_numbers_of_the_paper() -> None:
    """Table 10 prints two numbers otherwise, one of which is another column's."""
    second, tenth, eleventh = hosts(HOSTS), hosts(HOSTS[:3]), hosts(HOSTS[:3])
    for data, text in RANDOM_2.items():
        second |= numbers([f"{data}-ipc{ipc}-random" for ipc in (1, 10, 50)], text)
    tenth |= {"cifar10-ipc10-datm-dcpi": 68.08, "cifar100-ipc10-datm-dcpi": 55.21}
    for column, text in ASSIGNED.items():
        eleventh |= numbers([f"{column}-{name}-assigned" for name in HOSTS[:3]], text)

    assert published("dcpi-2") == second
    assert published("dcpi-10") == tenth
    assert published("dcpi-11") == eleventh


def test_tables_3_and_4_have_the_numbers_of_the_paper() -> None:
    third = {}
    for end, text in TABLE_3.items():
        third |= numbers([f"{name}-{end}" for name in SUBSETS], text)
    fourth = {}
    for ipc, text in TABLE_4.items():
        fourth |= numbers([f"imagenet1k-ipc{ipc}-{name}" for name in COLUMNS_4], text)

    assert published("dcpi-3") == third
    assert published("dcpi-4") == fourth


def test_tables_5_to_7_have_the_numbers_of_the_paper() -> None:
    fifth, sixth, seventh = {}, {}, {}
    for net, text in TABLE_5.items():
        fifth |= numbers([f"cifar10-ipc10-{name}/{net}" for name in ROWS_5], text)
    for net, text in TABLE_6.items():
        sixth |= numbers([f"cifar10-{name}/{net}" for name in ROWS_6], text)
    names = [f"cifar10-ipc10-dc-{name}{end}" for end in ("", "-dcpi") for name in NETS_7]
    for net, text in TABLE_7.items():
        seventh |= numbers([f"{name}/{net}" for name in names], text)

    assert published("dcpi-5") == fifth
    assert published("dcpi-6") == sixth
    assert published("dcpi-7") == seventh


def test_tables_12_and_13_have_the_numbers_of_the_paper() -> None:
    weights = [f"cifar10-ipc1-lambda-{name}" for name in ("0_05", "0_1", "0_5", "1", "5", "10")]
    terms = {}
    for data, text in TABLE_13.items():
        terms |= numbers([f"{data}-ipc1-{name}" for name in TERMS_13], text)

    assert published("dcpi-12") == numbers(weights, TABLE_12) | {"cifar10-ipc1-dc": 28.3}
    assert published("dcpi-13") == terms


def test_figures_have_rows_and_no_numbers() -> None:
    """What can be read off a figure is in its note."""
    for name in ("dcpi-fig-4b", "dcpi-fig-4c", "dcpi-fig-5"):
        assert not published(name)


def test_what_a_row_says_is_what_its_commands_do() -> None:
    """Weights in names are those typed, and tuned rows are of the very students of the labelled ones."""
    for row in load_table("dcpi-12").rows[1:]:
        weight = row.name.rpartition("-")[2].replace("_", ".")
        assert f"lambda_reg={weight}" in steps_of(row, "full", {"cifar10": "x"})[1].words
    dcpi, tuned, labels = (find_rows(f"dcpi-1/cifar10-ipc10-herding-{end}")[0] for end in ("dcpi", "tuned", "labels"))
    use = {"cifar10": "x"}
    assert steps_of(dcpi, "full", use) == steps_of(tuned, "full", use) == steps_of(labels, "full", use)
    assert (dcpi.against, tuned.against) == ("cifar10-ipc10-herding", "cifar10-ipc10-herding")
    assert labels.against == tuned.name


def test_assigned_labels_have_the_weight_of_learned_ones() -> None:
    rows = [row for table in ("dcpi-11", "dcpi-fig-5") for row in load_table(table).rows if "lambda_reg" in row.given]
    for row in rows:
        learned = load_recipe(row.given["recipe"]).settings["refine"]["lambda_reg"]
        assert row.given["lambda_reg"] == float(learned), row.full_name
    assert len(rows) == 20 + 6


def test_students_with_labels_and_without_are_told_apart() -> None:
    """An evaluation of privileged labels has both on the same images, and random images besides."""
    shared = {"arch": "mlp", "loss": {"name": "ce"}, "recipe": {"optimizer": "sgd"}, "stored_bytes": 7}
    accuracies = {("bundle", "hard+feature"): 0.5, ("bundle", "hard"): 0.25, ("random-equal-bytes", "hard"): 0.125}
    results = [
        {**shared, "images": images, "labels": labels, "accuracy": {"mean": mean, "values": [mean], "ci95": None}}
        for (images, labels), mean in accuracies.items()
    ]
    bundle = SimpleNamespace(name="x", manifest=SimpleNamespace(evaluations=[{"results": results}]))
    found = {row.name: measure(bundle, row, {}) for row in find_rows("dcpi-1/cifar10-ipc10-herding-")}

    assert {name.rpartition("-")[2]: each[""].mean for name, each in found.items()} == {
        "dcpi": 50,
        "tuned": 25,
        "labels": 50,
    }


def test_rows_with_labels_name_a_metric_that_is_measured() -> None:
    rows = [row for number in (3, 5, 6, 7, 12, 13) for row in load_table(f"dcpi-{number}").rows]
    for row in rows:
        assert row.metric in METRICS
        labelled = any(step.words[0] in {"refine", "augment-labels"} for step in steps_of(row, "full", {row.data: "x"}))
        assert (row.metric == "accuracy") is not labelled, row.full_name


def test_narrow_budgets_leave_out_nets_that_do_not_fit() -> None:
    """LeNet takes 28 or 32 pixels, VGG 32."""
    (row,) = find_rows("dcpi-5/cifar10-ipc10-herding-dcpi")

    assert set(axes_of(row, "full")["arch"]) == set(TABLE_5)
    assert set(axes_of(row, "smoke")["arch"]) < set(TABLE_5)
    assert missing(find_rows("dcpi-7/cifar10-ipc10-dc-vgg")[0], "cpu", {"cifar10": "x"})
    assert missing(find_rows("dcpi-4/imagenet1k-ipc1-resnet18-rded")[0], "full", {"imagenet1k": "x"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("dcpi-1/cifar10-ipc10-herding-tuned", {""}),
        ("dcpi-6/cifar10-ipc10-dc-spatial", {"MLP", "ConvNet", "AlexNet"}),
        ("dcpi-7/cifar10-ipc10-dc-lenet-dcpi", {"LeNet", "ConvNet"}),
        ("dcpi-13/cifar10-ipc1-feature-soft", {""}),
        ("dcpi-11/cifar10-ipc1-datm-assigned", {""}),
        ("dcpi-3/imagenette-ipc1-mtt-dcpi", {""}),
        ("dcpi-2/cifar10-ipc1-rded-dcpi", {""}),
        ("dcpi-4/imagenet1k-ipc1-resnet101-sre2l", {""}),
        ("dcpi-4/imagenet1k-ipc1-convnet-tesla", {""}),
    ],
)
def test_a_row_of_every_pipeline_runs_on_digits(row: str, cells: set[str], tmp_path: Path) -> None:
    import json

    outcome = run_command("recipes", "run", row, "--folder", tmp_path / "runs", "--json")

    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)["results"]
    assert {result["cell"] for result in results} == cells
    assert all(0 <= result["ours"] <= 100 for result in results)
