"""`evaluate` through the command line: what is scored, what is recorded, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

STUDENT = ("--arch", "convnet-d1-w8", "--epochs", "30", "--seeds", "3")


def test_a_score_carries_its_whole_specification(run_cli, files, tmp_path: Path) -> None:
    """Protocol, recipe, loss, seeds, per-seed accuracies, spread; images and labels are untouched."""
    outcome = run_cli("evaluate", files.base, "--data", files.data, *STUDENT, "-o", tmp_path / "s.ddset")
    scored = Bundle.open(tmp_path / "s.ddset", verify=True)
    (evaluation,) = scored.manifest.evaluations
    (result,) = evaluation["results"]

    assert outcome.code == 0, outcome.err
    assert tuple(evaluation[key] for key in ("protocol", "labels", "seeds", "assumption_compliant")) == (
        "dm",
        "hard",
        [0, 1, 2],
        True,
    )
    assert len(result["accuracy"]["values"]) == 3
    assert result["accuracy"]["mean"] > 0.5
    assert result["arch"] == "convnet-d1-w8-instance"
    assert result["recipe"]["epochs"] == 30
    assert scored.images_digest() == Bundle.open(files.base).images_digest()
    assert "accuracy %" in outcome.out


def test_the_same_evaluation_gives_the_same_content(run_cli, files, tmp_path: Path) -> None:
    """Students are a function of the seed."""
    for name in "ab":
        run_cli("evaluate", files.gift, "--data", files.data, *STUDENT, "-o", tmp_path / f"{name}.ddset")
    run_cli("evaluate", files.gift, "--data", files.data, *STUDENT, "--seed", "1", "-o", tmp_path / "c.ddset")
    first, second, third = (Bundle.open(tmp_path / f"{name}.ddset").content for name in "abc")

    assert first == second != third


@pytest.mark.parametrize("protocol", ["dm", "mtt", "gift", "glad"])
def test_every_protocol_trains(run_cli, files, protocol: str) -> None:
    """As JSON, without writing a file."""
    outcome = run_cli(
        "evaluate", files.dense, "--data", files.data, "--arch", "mlp", "--seeds", "1", "--epochs", "4",
        "--protocol", protocol, "--json",
    )  # fmt: skip
    document = json.loads(outcome.out)

    assert outcome.code == 0, outcome.err
    assert (document["schema"], document["version"]) == ("ddlabel.evaluate", 1)
    assert protocol == document["evaluation"]["protocol"]
    assert document["evaluation"]["results"][0]["loss"]["name"] == "ladd"


@pytest.mark.parametrize(
    "loss", ["ce", "softce", "kl", "kl_t2", "mse", "cosine", "gift", "mse_ce", "softce_ce", "kl_ce"]
)
def test_every_loss_trains_on_soft_labels(run_cli, files, loss: str) -> None:
    """The losses of the comparison, by their published names."""
    outcome = run_cli(
        "evaluate", files.soft, "--data", files.data, "--arch", "mlp", "--seeds", "1", "--epochs", "2", "--loss", loss
    )

    assert outcome.code == 0, outcome.err


def test_baselines_use_random_images_with_hard_and_with_the_same_labels(run_cli, files, tmp_path: Path) -> None:
    """Three rows: the bundle, random with hard labels, random labelled like the bundle; paired differences."""
    outcome = run_cli(
        "evaluate", files.gift, "--data", files.data, *STUDENT, "--baselines", "--teacher", files.teacher,
        "-o", tmp_path / "s.ddset",
    )  # fmt: skip
    results = Bundle.open(tmp_path / "s.ddset").manifest.evaluations[0]["results"]

    assert outcome.code == 0, outcome.err
    assert [(result["images"], result["labels"]) for result in results] == [
        ("bundle", "dense"),
        ("random", "hard"),
        ("random", "dense"),
    ]
    assert ["bundle_minus_this" in result for result in results] == [False, True, True]


def test_baselines_ask_for_the_teacher_of_the_labels(run_cli, files) -> None:
    """Another teacher, or none, would compare different labels."""
    outcome = run_cli("evaluate", files.soft, "--data", files.data, *STUDENT, "--baselines")

    assert outcome.code == 2
    assert "pass them with --teacher FILE" in outcome.err


def test_missing_labels_say_what_to_run(run_cli, files) -> None:
    """Exit 3, with what is there."""
    outcome = run_cli("evaluate", files.base, "--data", files.data, "--labels", "soft", *STUDENT)

    assert outcome.code == 3
    assert "no soft labels (labels: hard)" in outcome.err
    assert "run 'ddlabel augment-labels" in outcome.err


def test_a_soft_loss_on_hard_labels_is_refused(run_cli, files) -> None:
    """Before any student is trained."""
    outcome = run_cli("evaluate", files.base, "--data", files.data, "--loss", "kl", *STUDENT)

    assert outcome.code == 2
    assert "loss 'kl' needs soft labels" in outcome.err


@pytest.mark.parametrize("lr", [0.0, -0.01, float("nan")], ids=["zero", "negative", "not a number"])
@pytest.mark.fault(74)
def test_fault_74_a_learned_step_size_must_be_positive(run_cli, files, tmp_path: Path, lr: float) -> None:
    """Refused before a student is trained."""
    import torch

    from ddlabel.bundle import NewSection, StageRecord

    section = NewSection("student.lr", "student", {"student.lr": torch.tensor(lr)})
    record = StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {})
    Bundle.open(files.base).with_stage(record, add=[section]).save(tmp_path / "b.ddset")
    outcome = run_cli("evaluate", tmp_path / "b.ddset", "--data", files.data, "--protocol", "mtt", *STUDENT)

    assert 3 == outcome.code
    assert "expected a positive number" in outcome.err


def test_data_of_other_classes_is_refused(run_cli, files) -> None:
    """Exit 3, both sides named."""
    outcome = run_cli("evaluate", files.base, "--data", "digits", *STUDENT)

    assert outcome.code == 3
    assert "has classes" in outcome.err


def test_the_estimators_of_ladd_are_options_of_the_loss(run_cli, files) -> None:
    """`--set estimator=` reaches the sampler: full sees 1 + v samples per image."""
    seen = {}
    for estimator in ("pool", "balanced", "full"):
        outcome = run_cli(
            "evaluate", files.dense, "--data", files.data, "--arch", "mlp", "--seeds", "1", "--epochs", "2",
            "--set", f"estimator={estimator}", "--json",
        )  # fmt: skip
        seen[estimator] = json.loads(outcome.out)["evaluation"]["results"][0]["samples_seen"]

    assert seen == {"pool": 36, "balanced": 36, "full": 360}
