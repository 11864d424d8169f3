"""GIFT's tables: the numbers that the paper prints, which rows have a live teacher, and rows run whole."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ddlabel.cli._measure import METRICS
from ddlabel.errors import BundleError
from ddlabel.tables._table import find_rows, load_table, steps_of, table_names

TABLES = [name for name in table_names() if name.startswith("gift-")]

# One line per column of Tables 1 and 2: SRe2L, RDED, DATM, G-VBSM without GIFT, and the same with it.
COLUMNS = {
    "gift-1/cifar100-ipc1-convnet": ("13.6 22.1 - 14.7", "15.1 24.7 - 16.0"),
    "gift-1/cifar100-ipc10-convnet": ("33.7 47.5 36.1 40.9", "38.0 50.6 37.8 44.6"),
    "gift-1/cifar100-ipc50-convnet": ("52.3 55.7 43.0 54.7", "55.4 57.9 43.6 57.2"),
    "gift-1/tiny-imagenet-ipc1-convnet": ("12.1 17.9 - 8.4", "13.1 19.1 - 8.9"),
    "gift-1/tiny-imagenet-ipc10-convnet": ("34.5 41.4 26.5 34.5", "37.5 44.0 27.5 36.9"),
    "gift-1/tiny-imagenet-ipc50-convnet": ("46.3 47.2 34.2 47.0", "47.1 48.3 34.8 47.8"),
    "gift-1/cifar100-ipc1-resnet": ("11.5 4.7 - 13.4", "12.7 5.0 - 13.7"),
    "gift-1/cifar100-ipc10-resnet": ("42.7 52.8 25.8 48.5", "44.3 54.0 26.3 49.2"),
    "gift-1/cifar100-ipc50-resnet": ("57.8 64.4 47.5 62.0", "58.6 65.3 47.9 62.5"),
    "gift-1/tiny-imagenet-ipc1-resnet": ("12.7 15.1 - 8.8", "14.2 15.9 - 9.3"),
    "gift-1/tiny-imagenet-ipc10-resnet": ("43.5 48.2 26.7 39.9", "44.2 49.2 29.0 40.5"),
    "gift-1/tiny-imagenet-ipc50-resnet": ("53.9 57.6 41.9 52.8", "54.5 58.1 42.4 53.1"),
    "gift-2/ipc10-convnet": ("12.5 20.1 - 22.6", "14.2 24.0 - 24.3"),
    "gift-2/ipc50-convnet": ("35.4 38.5 - 37.3", "38.1 39.5 - 39.1"),
    "gift-2/ipc100-convnet": ("40.1 41.8 - 40.1", "41.5 42.5 - 42.1"),
    "gift-2/ipc10-resnet": ("31.5 41.4 - 36.7", "31.9 43.2 - 37.9"),
    "gift-2/ipc50-resnet": ("49.5 55.5 - 52.3", "50.1 56.5 - 53.1"),
    "gift-2/ipc100-resnet": ("54.3 58.8 - 57.3", "54.8 59.3 - 57.6"),
}
METHODS = ("sre2l", "rded", "datm", "g-vbsm")

# Tables 5 and 12, one line per optimiser: methods as above, without and with GIFT.
OPTIMIZERS = {
    "gift-5/cifar100": {
        "sgd": "1.5 1.9 37.3 44.2 | 43.0 53.4 38.5 49.8",
        "adam": "8.7 17.8 36.7 41.2 | 44.7 53.7 40.0 51.3",
        "adamw": "34.5 47.5 36.1 40.9 | 38.0 50.6 37.8 44.6",
    },
    "gift-5/tiny-imagenet": {
        "sgd": "0.6 0.6 28.2 41.4 | 43.8 46.6 30.1 44.5",
        "adam": "3.1 4.5 27.8 36.5 | 45.2 46.5 29.1 45.3",
        "adamw": "33.7 41.4 26.5 34.5 | 37.5 44.0 27.5 36.9",
    },
    "gift-12/convnet": {
        "sgd": "0.1 0.1 - 20.4 | 18.2 26.7 - 27.4",
        "adam": "0.1 0.1 - 25.0 | 26.6 30.9 - 29.8",
        "adamw": "12.5 20.1 - 22.6 | 14.2 24.0 - 24.3",
    },
    "gift-12/resnet": {
        "sgd": "0.1 0.1 - 38.7 | 36.1 45.8 - 41.8",
        "adam": "0.1 0.1 - 27.0 | 24.5 29.1 - 27.8",
        "adamw": "31.5 41.4 - 36.7 | 31.9 43.2 - 37.9",
    },
}

# Tables 3 and 6 by column: KD, WSLD, DKD, NKD, GIFT; and CE, KL, MSE, soft CE, KL + CE, MSE + CE, soft CE + CE, GIFT.
LOSSES = {
    "cifar100-ipc10": ("43.2 38.6 49.0 46.3 50.6", "26.6 47.5 47.6 40.8 48.2 47.4 39.7 49.5"),
    "cifar100-ipc50": ("51.9 49.5 56.7 54.3 57.9", "40.8 55.7 55.9 52.1 56.3 56.2 51.1 57.0"),
    "tiny-imagenet-ipc10": ("33.3 27.1 40.9 37.6 44.0", "14.2 41.4 41.6 33.4 41.6 41.7 32.6 42.9"),
    "tiny-imagenet-ipc50": ("40.7 37.5 47.2 44.1 48.3", "26.9 47.2 47.3 44.1 46.8 47.1 43.2 47.5"),
    "imagenet-ipc10": ("16.7 13.4 20.5 19.8 24.0", "9.1 20.1 20.7 17.0 20.3 20.5 15.2 21.7"),
    "imagenet-ipc50": ("24.3 22.8 33.1 27.9 39.5", "17.5 38.5 38.8 30.5 35.2 38.3 29.1 39.5"),
    "imagenet-ipc100": ("27.5 26.2 36.5 30.6 42.5", "21.5 41.8 41.9 37.2 39.0 40.5 34.7 42.5"),
}

# Table 4 by the net that learns: ConvNet's rows SRe2L, RDED, DATM, G-VBSM, then ResNet-18's SRe2L, RDED, G-VBSM.
STUDENTS = {
    "ConvNet": ("34.5 41.4 36.1 34.5 19.2 29.2 16.0", "37.5 44.0 37.8 36.9 19.4 29.9 16.5"),
    "ResNet-18": ("43.0 46.5 27.3 42.2 43.5 48.2 39.9", "44.2 47.2 29.0 42.8 44.2 49.2 40.5"),
    "EfficientNet-B0": ("11.2 30.3 18.0 13.7 11.6 24.1 8.8", "15.3 31.4 18.4 16.3 12.2 25.2 10.1"),
    "MobileNet-V2": ("14.0 30.2 14.7 15.0 11.9 23.5 11.5", "14.4 31.3 17.5 15.8 12.3 24.1 11.8"),
    "ResNet-101": ("9.9 28.2 15.3 7.7 8.7 21.8 6.3", "10.6 30.8 16.8 15.5 9.0 23.5 9.2"),
    "Swin-V2-T": ("10.3 26.8 4.1 10.4 8.0 19.6 6.5", "11.2 28.7 16.3 13.2 8.8 20.4 8.2"),
}
MAKERS = (*(f"convnet-{method}" for method in METHODS), "resnet-sre2l", "resnet-rded", "resnet-g-vbsm")

# Table 7 by variant, SRe2L then RDED at 1, 10 and 50 images of CIFAR-100 and of Tiny-ImageNet.
PARTS = {
    "": "13.6 33.7 52.3 12.1 34.5 46.3 22.1 47.5 55.7 17.9 41.4 47.2",
    "-refine": "14.2 34.5 52.8 12.5 35.1 46.6 22.9 48.0 56.3 18.2 41.9 48.1",
    "-loss": "14.7 37.3 54.6 12.7 36.9 46.9 23.8 49.5 57.0 18.5 42.9 47.5",
    "-gift": "15.1 38.0 55.4 13.1 37.5 47.1 24.7 50.6 57.9 19.1 44.0 48.3",
}

# Table 13's middle column, the loss alone: SRe2L, RDED, G-VBSM at 10, 50 and 100 images.
LOSS_ALONE = {
    "convnet": "13.1 36.8 40.7 21.7 39.3 42.1 23.8 38.3 41.8",
    "resnet": "31.7 49.8 54.5 42.0 55.9 59.1 37.5 52.8 57.4",
}


def printed(row: str) -> dict[str, float]:
    """Numbers of a row by cell; empty where the paper prints none."""
    (found,) = (each for each in find_rows(row) if each.full_name == row)
    return {cell.label: cell.published for cell in found.cells if cell.published is not None}


def numbers(text: str) -> list[float | None]:
    return [None if word == "-" else float(word) for word in text.split()]


def with_numbers(table: str) -> set[str]:
    return {row.full_name for row in load_table(table).rows if any(cell.published is not None for cell in row.cells)}


def test_numbers_of_tables_1_and_2_are_those_of_the_paper() -> None:
    expected = {
        f"{column}-{method}{tail}": value
        for column, both in COLUMNS.items()
        for tail, text in zip(("", "-gift"), both, strict=True)
        for method, value in zip(METHODS, numbers(text), strict=True)
        if value is not None
    }

    assert with_numbers("gift-1") | with_numbers("gift-2") == set(expected)
    assert {row: printed(row)[""] for row in expected} == expected


def test_numbers_of_tables_5_and_12_are_those_of_the_paper() -> None:
    expected = {
        f"{start}-{method}-{optimizer}{tail}": value
        for start, lines in OPTIMIZERS.items()
        for optimizer, line in lines.items()
        for tail, text in zip(("", "-gift"), line.split("|"), strict=True)
        for method, value in zip(METHODS, numbers(text), strict=True)
        if value is not None
    }

    assert with_numbers("gift-5") | with_numbers("gift-12") == set(expected)
    assert {row: printed(row)[""] for row in expected} == expected


@pytest.mark.parametrize("column", LOSSES)
def test_numbers_of_tables_3_and_6_are_those_of_the_paper(column: str) -> None:
    """The last number of Table 6 stands at the loss that it is a value of."""
    third, sixth = (numbers(text) for text in LOSSES[column])
    last = "gift" if column in {"imagenet-ipc50", "imagenet-ipc100"} else "cosine"
    names = ("kl", "mse", "softce", "kl_ce", "mse_ce", "softce_ce", last)

    losses = ("kd", "wsld", "dkd", "nkd", "gift")
    assert [printed(f"gift-3/{column}-{loss}")[""] for loss in losses] == third
    assert printed(f"gift-6/{column}-ce") == {"": sixth[0]}
    assert printed(f"gift-6/{column}") == dict(zip(names, sixth[1:], strict=True))


def test_numbers_of_table_4_are_those_of_the_paper() -> None:
    for number, maker in enumerate(MAKERS):
        for tail, k in (("", 0), ("-gift", 1)):
            expected = {net: numbers(texts[k])[number] for net, texts in STUDENTS.items()}
            assert printed(f"gift-4/{maker}{tail}") == expected, (maker, tail)


def test_numbers_of_tables_7_and_13_are_those_of_the_paper() -> None:
    starts = [
        f"gift-7/{data}-ipc{ipc}-{method}"
        for method in ("sre2l", "rded")
        for data in ("cifar100", "tiny-imagenet")
        for ipc in (1, 10, 50)
    ]
    for tail, text in PARTS.items():
        assert [printed(f"{start}{tail}")[""] for start in starts] == numbers(text), tail
    for net, text in LOSS_ALONE.items():
        starts = [f"ipc{ipc}-{net}-{method}" for method in ("sre2l", "rded", "g-vbsm") for ipc in (10, 50, 100)]
        assert [printed(f"gift-13/{start}-loss")[""] for start in starts] == numbers(text)
        for start in starts:
            assert [printed(f"gift-13/{start}{tail}") for tail in ("", "-gift")] == [
                printed(f"gift-2/{start}{tail}") for tail in ("", "-gift")
            ]


@pytest.mark.parametrize("name", TABLES)
def test_published_numbers_stand_on_rows_with_a_live_teacher(name: str) -> None:
    """But for labels that were learned, cross entropy and refined labels in the method's own loss."""
    for row in load_table(name).rows:
        use = {row.data: "cifar100", **dict.fromkeys(row.needs, "weights.safetensors")}
        words = steps_of(row, "full", use)[-1].words
        labels = words[words.index("--labels") + 1]
        published = any(cell.published is not None for cell in row.cells)
        stored = row.name.endswith(("-stored", "-ce", "-refine")) or "datm" in row.name or name == "gift-fig-continual"
        assert (labels == "online") is not stored, row.full_name
        assert published is False or not row.name.endswith("-stored"), row.full_name
        assert words[words.index("--protocol") + 1] == "gift", row.full_name


@pytest.mark.parametrize("name", ["gift-1", "gift-2", "gift-4", "gift-5", "gift-12", "gift-fig-continual"])
def test_gift_and_what_it_is_compared_with_differ_in_loss_and_refinement_alone(name: str) -> None:
    """Same images by the same files, same students."""
    rows = {row.name: row for row in load_table(name).rows}
    for row in rows.values():
        if "-gift" not in row.name:
            continue
        assert row.against == row.name.replace("-gift", "")
        ours, theirs = (
            [
                step
                for step in steps_of(
                    each,
                    "cpu" if "imagenet" != row.data else "full",
                    {each.data: "digits", **dict.fromkeys(each.needs, "w")},
                )
                if step.words[0] not in {"refine", "evaluate"}
            ]
            for each in (row, rows[row.against])
        )
        assert ours == theirs, row.full_name


def test_each_cell_of_the_optimisers_has_one_step_size() -> None:
    for row in (*load_table("gift-5").rows, *load_table("gift-12").rows):
        words = steps_of(row, "full", {row.data: "digits", **dict.fromkeys(row.needs, "w")})[-1].words
        lr = {"sgd": "lr=0.1", "adam": "lr=0.001", "adamw": "lr=0.001"}[words[words.index("--optimizer") + 1]]
        assert lr in words, row.full_name


def bundle_with(results: list[dict]) -> SimpleNamespace:
    evaluation = {"labels": "online", "results": results}
    return SimpleNamespace(name="scored.ddset", manifest=SimpleNamespace(evaluations=[evaluation]))


def result(labels: str, *means: float) -> dict:
    accuracies = [{"mean": mean, "values": [mean, mean], "ci95": 0.01} for mean in means]
    return {
        "arch": "mlp",
        "images": "bundle",
        "labels": labels,
        "loss": {"name": "kl"},
        "recipe": {"optimizer": "adamw"},
        "stored_bytes": 7,
        "accuracy": accuracies[0],
        "incremental": {"curve": [{"accuracy": accuracy} for accuracy in accuracies]},
    }


def test_a_number_is_of_the_labels_that_were_evaluated() -> None:
    """Not of those that stand beside a live teacher's."""
    bundle = bundle_with([result("online", 0.5), result("soft", 0.25)])

    assert METRICS["accuracy"].read(bundle, {}, "").mean == 50.0
    assert METRICS["accuracy"].read(bundle, {"labels": {"stored": "soft"}}, "stored").mean == 25.0
    with pytest.raises(BundleError, match="0 results"):
        METRICS["accuracy"].read(bundle, {"loss": {"gift": "gift"}}, "gift")


def test_a_number_of_a_step_is_of_the_classes_so_far() -> None:
    bundle = bundle_with([result("online", 0.75, 0.5, 0.25)])

    found = [METRICS["incremental"].read(bundle, {}, f"step {step}") for step in (1, 2, 3)]

    assert [each.mean for each in found] == [75.0, 50.0, 25.0]
    assert found[2].values == (25.0, 25.0)
    assert found[2].interval == 1.0
    assert found[2].stored == 7
    with pytest.raises(BundleError, match="3 steps"):
        METRICS["incremental"].read(bundle, {}, "step 4")


RUN = {
    "losses": {
        "gift-6/cifar100-ipc10-ce": True,
        "gift-6/cifar100-ipc10": False,
        "gift-7/cifar100-ipc10-sre2l-refine": True,
    },
    "several teachers": {
        "gift-1/cifar100-ipc10-convnet-g-vbsm-gift": False,
        "gift-1/cifar100-ipc10-convnet-g-vbsm-gift-stored": True,
    },
    "trajectories": {"gift-5/cifar100-datm-sgd": True, "gift-fig-continual/datm-5-steps-gift": True},
}
"""Rows that share steps, and whether they are compliant."""


@pytest.mark.slow
@pytest.mark.parametrize("group", RUN)
def test_rows_run_whole(group: str, tmp_path, run_cli) -> None:
    """Hard labels, a live teacher under eight losses, refined labels, G-VBSM both ways, DATM, classes in steps."""
    rows = RUN[group]
    outcome = run_cli("recipes", "run", *rows, "--folder", tmp_path, "--quiet", "--json")

    assert outcome.code == 0, outcome.err
    records = json.loads(outcome.out)["results"]
    assert {record["row"] for record in records} == set(rows)
    for record in records:
        assert record["compliant"] is rows[record["row"]], record["row"]
        assert 0 <= record["ours"] <= 100
    expected = {(row, cell.label) for row in rows for cell in find_rows(row)[0].cells}
    assert {(record["row"], record["cell"]) for record in records} == expected
