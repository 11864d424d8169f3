"""ECE, NLL and temperatures against values worked out by hand, in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddlabel import seeding
from ddlabel.data._dataset import Split
from ddlabel.stages._calibration import (
    MOST_HELD_OUT,
    Calibration,
    _sample,
    ece,
    fit_temperature,
    nll,
    summarise_calibration,
)


def two_class(chances: list[float]) -> Tensor:
    """Logits whose softmax gives class 0 these chances."""
    values = torch.tensor(chances, dtype=torch.float64)
    return torch.stack([values.log(), (1 - values).log()], dim=1)


def test_nll_is_the_mean_of_minus_log_chances() -> None:
    """-(log 0.8 + log 0.4) / 2, and at T = 2 those of the softened chances 2/3 and 1/(1 + sqrt(3/2))."""
    logits, labels = two_class([0.8, 0.6]), torch.tensor([0, 1])
    softened = (math.log(1.5) + math.log(1 + math.sqrt(1.5))) / 2

    assert pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2, abs=1e-12) == nll(logits, labels)
    assert pytest.approx(softened, abs=1e-12) == nll(logits, labels, 2.0)


def test_ece_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    """Confidence 0.9 twice, right once: |1.8 - 1| / 4; 0.7 right and 0.71 wrong share a bin: |1.41 - 1| / 4."""
    logits = two_class([0.9, 0.9, 0.7, 0.71])
    labels = torch.tensor([0, 1, 0, 1])

    assert pytest.approx((0.8 + 0.41) / 4, abs=1e-12) == ece(logits, labels)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    """0.5 of two bins is in the first: its gap does not meet that of 0.75 in the second; 1 is in the last."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [1000.0, 0.0]], dtype=torch.float64)

    assert pytest.approx((0.5 + 0.75) / 2, abs=1e-12) == ece(logits[:2], torch.tensor([0, 1]), bins=2)
    assert pytest.approx((0.5 + 0.75 + 0.0) / 3, abs=1e-12) == ece(logits, torch.tensor([0, 1, 0]), bins=2)


def test_believable_confidence_has_no_error_and_temperature_one() -> None:
    """Of chance 0.8 four of five are right, of 0.6 three of five."""
    logits = two_class([0.8] * 5 + [0.6] * 5)
    labels = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 1, 1])

    assert pytest.approx(0.0, abs=1e-12) == ece(logits, labels)
    assert pytest.approx(1.0, abs=1e-12) == fit_temperature(logits, labels)


@pytest.mark.parametrize("factor", [1e-6, 0.03, 7.0, 1e5])
def test_the_temperature_undoes_any_scale(factor: float) -> None:
    """Also of logits far from unit size, where an optimiser with a fixed step would not arrive."""
    logits = two_class([0.8] * 5 + [0.6] * 5) * factor
    labels = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 1, 1])
    found = fit_temperature(logits, labels)

    assert found is not None
    assert pytest.approx(factor, rel=1e-12) == found
    assert pytest.approx(0.0, abs=1e-9) == ece(logits, labels, found)


def test_no_temperature_is_better_than_the_one_found() -> None:
    """On a fine grid around it, for random logits of five classes."""
    source = seeding.generator(0, "calibration test")
    logits = torch.randn(40, 5, generator=source, dtype=torch.float64) * 3
    labels = torch.where(torch.rand(40, generator=source) < 0.6, logits.argmax(1), torch.zeros(40, dtype=torch.int64))
    found = fit_temperature(logits, labels)

    assert found is not None
    assert all(nll(logits, labels, found) <= nll(logits, labels, found * 1.01**step) for step in range(-300, 300))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([[2.0, 1.0], [0.0, 3.0]], [0, 1]),
        ([[2.0, 1.0], [0.0, 3.0]], [1, 0]),
        ([[0.0, 0.0]], [0]),
        (torch.zeros(0, 2).tolist(), []),
    ],
    ids=["all right", "worse than chance", "no opinion", "no images"],
)
def test_there_may_be_no_best_temperature(logits: list[list[float]], labels: list[int]) -> None:
    """The NLL then falls for ever towards T = 0 or infinity, or does not depend on T."""
    assert fit_temperature(torch.tensor(logits).reshape(-1, 2), torch.tensor(labels, dtype=torch.int64)) is None


def test_a_mean_is_of_all_students_or_of_none() -> None:
    """A student without temperature leaves no mean of scaled numbers, which others would be compared with."""
    students = [Calibration(2.0, 0.5, 0.1, 0.4, 0.05), Calibration(None, 0.7, 0.3, None, None)]
    record = summarise_calibration(students)

    assert record["nll"] == {"values": [0.5, 0.7], "mean": pytest.approx(0.6)}
    assert record["temperature"] == {"values": [2.0, None], "mean": None}
    assert list(record) == ["temperature", "nll", "ece", "nll_scaled", "ece_scaled"]


def test_large_held_out_parts_are_sampled() -> None:
    """The same images for every student, pixels with their labels."""
    labels = torch.arange(MOST_HELD_OUT + 5)
    split = Split(labels.reshape(-1, 1, 1, 1), labels)
    chosen = _sample(split)

    assert len(chosen) == MOST_HELD_OUT
    assert torch.equal(chosen.pixels.flatten(), chosen.labels)
    assert torch.equal(chosen.labels, _sample(split).labels)
    assert len(chosen.labels.unique()) == MOST_HELD_OUT


def test_evaluations_record_the_calibration_of_every_row(run_cli, files, tmp_path: Path) -> None:
    """Student by student; without held-out images raw numbers alone."""
    student = ("--arch", "mlp", "--epochs", "3", "--seeds", "2", "--json")
    arguments = (
        "--data",
        files.data,
        "--method",
        "random",
        "--ipc",
        "2",
        "--validation",
        "0",
        "-o",
        tmp_path / "b.ddset",
    )
    assert run_cli("distill", *arguments).code == 0
    records = [
        json.loads(run_cli("evaluate", bundle, "--data", files.data, *student).out)["evaluation"]["results"][0]
        for bundle in (files.base, tmp_path / "b.ddset")
    ]
    with_part, without = (record["calibration"] for record in records)

    assert [len(record["values"]) for record in with_part.values()] == [2] * 5
    assert with_part["nll"]["mean"] > 0
    assert without["temperature"] == without["ece_scaled"] == {"values": [None, None], "mean": None}
    assert 0 <= without["ece"]["mean"] <= 1
