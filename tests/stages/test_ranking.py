"""`evaluate --protocol ddranking`: what is trained alike, what is chosen on which images, and the scores by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ddlabel.bundle import Bundle
from ddlabel.protocols.ddranking import RankingOptions
from ddlabel.scores import augmentation_robust_score, label_robust_score
from ddlabel.stages._plan import Plan
from ddlabel.stages._ranking import scores

QUICK = ("--arch", "mlp", "--epochs", "2", "--protocol", "ddranking", "--set", "real_epochs=1")
RATES = ("--set", "rates=0.01,0.1")


def test_scores_by_hand() -> None:
    """Seed by seed: HLR 0.2 and IOR 0.1 give LRS 0.24819; IOR 0.1 and 0.3 at gamma 0.25 give ARS at 0.25."""
    record = scores(
        {
            "bundle_any": [0.6, 0.5],
            "random_any": [0.5, 0.5],
            "bundle_plain": [0.8, 0.4],
            "random_plain": [0.5, 0.4],
            "bundle_hard": [0.7, 0.3],
            "random_hard": [0.1, 0.1],
            "real_hard": [0.9, 0.9],
        },
        RankingOptions(w_augmented=0.25),
    )

    assert record["hlr"]["values"] == pytest.approx([0.2, 0.6])
    assert record["ior"]["values"] == pytest.approx([0.1, 0.0])
    assert record["lrs"]["values"] == pytest.approx([0.248192, label_robust_score(0.6, 0.0)], abs=1e-6)
    assert record["ars"]["values"] == pytest.approx([augmentation_robust_score(0.25, 0.25), 0.268941], abs=1e-6)
    assert record["hlr"]["std"] == pytest.approx(0.4 / 2**0.5)


def test_hard_labels_are_both_modes_and_students_may_not_be_augmented() -> None:
    """HLR of the same students as IOR; without ARS."""
    record = scores({"bundle_any": [0.6], "random_any": [0.5], "real_hard": [0.9]}, RankingOptions(w=1.0))

    assert record["hlr"]["mean"] == pytest.approx(0.3)
    assert record["lrs"]["mean"] == label_robust_score(0.0, record["ior"]["mean"], w=1.0)
    assert record["ars"] is None
    assert record["accuracies"]["random_hard"] == [0.5]


def test_a_ranking_compares_students_that_are_treated_alike(run_cli, files, tmp_path: Path) -> None:
    """Rows, rates and scores of soft labels agree with each other, in the file and in what is printed."""
    scored = tmp_path / "s.ddset"
    arguments = ("evaluate", files.soft, "--data", files.data, *QUICK, *RATES, "--seeds", "2")
    outcome = run_cli(*arguments, "--teacher", files.teacher, "-o", scored)
    evaluation = Bundle.open(scored, verify=True).manifest.evaluations[-1]
    (record,), results = evaluation["ranking"], evaluation["results"]
    rates = {mode: choice["lr"] for mode, choice in record["rates"].items()}

    assert outcome.code == 0, outcome.err
    assert [(row["images"], row["labels"], row["recipe"]["augment"], row["recipe"]["lr"]) for row in results] == [
        ("bundle", "soft", "dsa", rates["any"]),
        ("random", "soft", "dsa", rates["any"]),
        ("bundle-not-augmented", "soft", "none", rates["any"]),
        ("random-not-augmented", "soft", "none", rates["any"]),
        ("bundle", "hard", "dsa", rates["hard"]),
        ("random", "hard", "dsa", rates["hard"]),
        ("real", "hard", "dsa", rates["real"]),
    ]
    names = ["bundle_any", "random_any", "bundle_plain", "random_plain", "bundle_hard", "random_hard", "real_hard"]
    assert [row["accuracy"]["values"] for row in results] == [record["accuracies"][name] for name in names]
    assert record["lrs"]["values"] == [
        label_robust_score(*pair) for pair in zip(record["hlr"]["values"], record["ior"]["values"], strict=True)
    ]
    for choice in record["rates"].values():
        means = [np.mean(list(tried["held_out"].values())) for tried in choice["candidates"]]
        assert choice["candidates"][int(np.argmax(means))]["lr"] == choice["lr"]
    assert [list(choice["candidates"][0]["held_out"]) for choice in record["rates"].values()] == [
        ["bundle", "random"],
        ["bundle", "random"],
        ["real"],
    ]
    # two rounds (E + 1) of the 44 training images that are not held out; one of two rates is thrown away per student
    assert results[-1]["samples_seen"] == 2 * 44
    assert record["selection"]["samples_seen"] == 4 * results[0]["samples_seen"] + 2 * 44
    assert all(row["calibration"]["nll"]["mean"] > 0 for row in results)
    for said in ("HLR, points", "IOR, points", "LRS", "ARS", "real data: 1 epochs"):
        assert said in outcome.out
        assert said in run_cli("inspect", scored).out


def test_rates_are_chosen_without_test_data(run_cli, files, tmp_path: Path) -> None:
    """Other test images change accuracies, and neither what was chosen nor what it was chosen by."""
    arrays = dict(np.load(files.data.removeprefix("npz:")))
    arrays["test_images"] = arrays["test_images"][::-1].copy()
    np.savez(tmp_path / "other.npz", **arrays)
    records = []
    for data in (files.data, f"npz:{tmp_path / 'other.npz'}"):
        outcome = run_cli("evaluate", files.base, "--data", data, *QUICK, *RATES, "--seeds", "1", "--json")
        assert outcome.code == 0, outcome.err
        records.append(json.loads(outcome.out)["evaluation"]["ranking"][0])

    assert records[0]["rates"] == records[1]["rates"]
    assert list(records[0]["rates"]) == ["any", "real"]
    assert records[0]["accuracies"] != records[1]["accuracies"]


def test_a_rate_that_diverges_is_not_chosen(run_cli, files) -> None:
    """Where all do, that is the error; without augmentation there is no ARS."""
    arguments = ("evaluate", files.base, "--data", files.data, *QUICK, "--seeds", "1", "--set", "augment=none")
    outcome = run_cli(*arguments, "--set", "rates=1e30,0.01", "--json")
    record = json.loads(outcome.out)["evaluation"]["ranking"][0]
    failed = run_cli(*arguments, "--set", "rates=1e30")

    assert outcome.code == 0, outcome.err
    assert [(choice["lr"], choice["candidates"][0]["held_out"]) for choice in record["rates"].values()] == [
        (0.01, None),
        (0.01, None),
    ]
    assert record["ars"] is None
    assert "no ARS: students of hard labels are not augmented" in outcome.err
    assert failed.code == 5


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--labels", "soft"), "pass them with --teacher FILE"),
        (("--loss", "softce,kl"), "ranks one loss"),
        (("--optimizer", "sgd"), "expected --set optimizer"),
        (("--set", "lr=0.1"), "expected --set rates"),
        (("--set", "rates="), "'rates' is empty"),
        (("--set", "rates=0.1,-1"), "option 'rates' is -1"),
        (("--set", "w=50"), "option 'w' is 50"),
        (("--set", "speed=1"), "unknown option 'speed'"),
        (("--equal-bytes",), "--equal-bytes is another evaluation"),
    ],
)
def test_what_cannot_be_ranked_is_refused(run_cli, files, more: tuple[str, ...], says: str) -> None:
    """Before any student is trained."""
    outcome = run_cli("evaluate", files.soft, "--data", files.data, *QUICK, *more)

    assert outcome.code == 2
    assert says in outcome.err
    assert "seed 0" not in outcome.err


def test_learned_labels_cannot_be_given_to_random_images(run_cli, files, monkeypatch) -> None:
    """A comparison with random images under other labels would be none."""
    monkeypatch.setattr(Plan, "learned", property(lambda _plan: True))
    outcome = run_cli("evaluate", files.soft, "--data", files.data, *QUICK, "--teacher", files.teacher)

    assert outcome.code == 2
    assert "was learned with the images" in outcome.err
    assert "--labels hard" in outcome.err


def test_rates_need_held_out_images(run_cli, files, tmp_path: Path) -> None:
    """Test images are never taken in their place."""
    bundle = tmp_path / "b.ddset"
    arguments = ("--data", files.data, "--method", "random", "--ipc", "1", "--validation", "0", "-o", bundle)
    assert run_cli("distill", *arguments).code == 0
    outcome = run_cli("evaluate", bundle, "--data", files.data, *QUICK)

    assert outcome.code == 2
    assert "has none" in outcome.err
    assert "distil with --validation 0.1" in outcome.err


def test_the_options_of_a_ranking_are_listed(run_cli) -> None:
    """Where those of methods and losses are."""
    outcome = run_cli("methods", "ddranking")

    assert outcome.code == 0
    assert all(f"--set {name}=" in outcome.out for name in ("w", "w_augmented", "rates", "real_epochs"))
