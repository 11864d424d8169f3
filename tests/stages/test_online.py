"""`evaluate` with a live teacher: what is trained, what is said of it, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ddlabel import seeding
from ddlabel.bundle import Bundle
from ddlabel.config import EvaluateConfig
from ddlabel.errors import UsageError
from ddlabel.losses._loss import Targets
from ddlabel.nets._net import build
from ddlabel.stages._online import LiveTeacher, OnlineOptions, resolve_online
from ddlabel.stages._trials import online_trials
from ddlabel.teachers import Teacher

QUICK = ("--arch", "convnet-d1-w8", "--epochs", "3", "--seeds", "2")


def evaluation(run_cli, bundle: Path, files, *more: str | Path) -> dict[str, Any]:
    outcome = run_cli("evaluate", bundle, "--data", files.data, *QUICK, *more, "--json")

    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["evaluation"]


@pytest.fixture(scope="module")
def online(run_cli, files) -> dict[str, Any]:
    """A dense bundle with a live teacher and baselines."""
    return evaluation(run_cli, files.dense, files, "--teacher", files.teacher, "--protocol", "kd", "--baselines")


def test_a_live_teacher_has_its_stored_counterpart_beside_it(online: dict[str, Any]) -> None:
    """Bundle online, bundle with its richest labels, random hard, random online: at equal samples seen."""
    rows = [(row["images"], row["labels"], row["loss"]["name"]) for row in online["results"]]
    counterpart = online["results"][1]

    assert rows == [
        ("bundle", "online", "kl"),
        ("bundle", "dense", "ladd"),
        ("random", "hard", "ce"),
        ("random", "online", "kl"),
    ]
    assert len({row["samples_seen"] for row in online["results"]}) == 1
    assert online["protocol"] == "kd"
    assert "online_minus_this" in counterpart
    assert "bundle_minus_this" in online["results"][3]


def test_a_live_teacher_is_never_compliant_and_pays_for_its_bytes_and_passes(
    online: dict[str, Any], run_cli, files
) -> None:
    """The rows say it each; images and hard labels cost the same in every row."""
    first, stored, random, last = online["results"]
    teacher = Bundle.open(files.teacher)
    weights = sum(record["bytes"] for record in teacher.section("teacher.0.4").tensors.values())

    assert online["assumption_compliant"] is False
    assert [row.get("online", False) for row in online["results"]] == [True, False, False, True]
    assert first["stored_bytes"] == last["stored_bytes"] == random["stored_bytes"] + weights
    assert first["flops"] - first["teacher_flops"] == stored["flops"]
    assert 0 < first["teacher_flops"] < stored["flops"]
    assert first["recipe"] == stored["recipe"]
    assert (first["mix"], first["loss"]["options"]["temperature"]) == ("cutmix", 20.0)
    assert online["online"]["checkpoint"] == "last"
    assert [(one["section"], one["epoch"]) for one in online["online"]["checkpoints"]] == [("teacher.0.4", 4)]


@pytest.fixture(scope="module")
def early(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with a held-out part, whose accuracy grows from 1 to 4 epochs."""
    path = tmp_path_factory.mktemp("early") / "t.ddset"
    outcome = run_cli(
        "train-teacher", "--data", files.data, "--arch", "convnet-d1-w8", "--epochs", "4", "--keep", "1,2,4",
        "--set", "lr=0.1", "--set", "batch=16", "--validation", "0.3", "-o", path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return path


@pytest.mark.parametrize("which", ["1", "ipc", "rded"])
def test_an_early_epoch_of_the_teacher_can_answer(run_cli, files, early: Path, which: str) -> None:
    """By number, or by the images per class of the bundle; the record says which."""
    teacher = Teacher(Bundle.open(early))
    epoch = {"1": 1, "ipc": teacher.epoch_for(3), "rded": teacher.guided_epoch(3)}[which]
    scored = evaluation(
        run_cli, files.base, files, "--teacher", early, "--set", f"checkpoint={which}", "--set", "self_test=0"
    )
    (chosen,) = scored["online"]["checkpoints"]

    assert scored["online"]["checkpoint"] == which
    assert (chosen["section"], chosen["epoch"]) == (f"teacher.0.{epoch}", epoch)


def test_a_teacher_alone_means_a_live_teacher(run_cli, files) -> None:
    """No other option has a use for it; the table marks it; the same seed gives the same students."""
    arguments = ("evaluate", files.base, "--data", files.data, *QUICK, "--teacher", files.teacher)
    outcome, again = run_cli(*arguments), run_cli(*arguments)

    assert outcome.code == 0, outcome.err
    assert "not compliant: a live teacher" in outcome.out
    assert "protocol kd" in outcome.out
    assert outcome.out == again.out


def test_mixup_takes_its_own_temperature_and_any_protocol_takes_a_live_teacher(run_cli, files) -> None:
    """`--labels online` with another protocol's recipe; T = 4 with Mixup; what is typed wins."""
    scored = evaluation(
        run_cli, files.soft, files, "--teacher", files.teacher, "--labels", "online", "--protocol", "gift",
        "--set", "mix=mixup", "--loss", "kl,mse",
    )  # fmt: skip
    mixup, squared, stored = scored["results"]

    assert (scored["protocol"], mixup["mix"], mixup["loss"]["options"]["temperature"]) == ("gift", "mixup", 4.0)
    assert (squared["loss"]["name"], stored["labels"], stored["loss"]["name"]) == ("mse", "soft", "softce")
    assert mixup["recipe"]["augment"] == "dsa-composite"


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["--labels", "online"], 2, "expected --teacher FILE"),
        (["--protocol", "kd"], 2, "--protocol kd asks a live teacher"),
        (["--labels", "online+feature", "TEACHER"], 2, "expected 'online' alone"),
        (["--labels", "soft", "--protocol", "kd", "TEACHER"], 2, "use --protocol rded for stored labels"),
        (["--protocol", "kd", "TEACHER", "--equal-bytes"], 2, "--equal-bytes is of stored labels"),
        (["--protocol", "kd", "TEACHER", "TEACHER"], 2, "a teacher is given twice"),
        (["TEACHER", "--loss", "ce"], 2, "does not look at what a live teacher says"),
        (["TEACHER", "--loss", "ladd"], 2, "is of views that are stored"),
        (["--labels", "soft", "--set", "mix=none"], 2, "option 'mix' is of a live teacher"),
        (["TEACHER", "--set", "checkpoint=3"], 2, "one of the kept epochs 1, 4"),
        (["--labels", "soft", "--set", "checkpoint=1"], 2, "option 'checkpoint' is of a live teacher"),
        (["TEACHER", "--set", "mix=paste"], 2, "option 'mix' is 'paste'"),
        (["TEACHER", "--set", "self_test=1000"], 0, ""),
        (["BASE"], 3, "expected a teacher bundle"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_a_live_teacher_cannot_have_is_refused(run_cli, files, typed: list[str], code: int, said: str) -> None:
    """Before any student is trained."""
    words = {"TEACHER": ["--teacher", str(files.teacher)], "BASE": ["--teacher", str(files.base)]}
    arguments = [part for word in typed for part in words.get(word, [word])]
    outcome = run_cli(
        "evaluate", files.soft, "--data", files.data, *QUICK[:2], "--epochs", "1", "--seeds", "1", *arguments
    )

    assert outcome.code == code, outcome.err
    assert said in outcome.err


def test_a_live_teacher_at_chance_is_refused(run_cli, files, tmp_path: Path) -> None:
    """An untrained net, tested on held-out images before the first student."""
    weak = tmp_path / "weak.ddset"
    run_cli(
        "train-teacher", "--data", files.data, "--arch", "convnet-d1-w8", "--epochs", "1", "--keep", "1",
        "--set", "lr=1e-6", "-o", weak,
    )  # fmt: skip
    outcome = run_cli("evaluate", files.base, "--data", files.data, *QUICK, "--teacher", weak)

    assert outcome.code == 3
    assert "real images, expected at least 62%" in outcome.err
    assert "--set self_test" in outcome.err


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ({}, ("online", "kd")),
        ({"labels": "online"}, ("online", "kd")),
        ({"labels": "online", "protocol": "dm"}, ("online", "dm")),
        ({"protocol": "kd"}, ("online", "kd")),
        ({"protocol": "kd", "baselines": True}, ("online", "kd")),
        ({"baselines": True}, (None, None)),
        ({"equal_bytes": True}, (None, None)),
        ({"protocol": "rded"}, (None, "rded")),
        ({"labels": "soft"}, ("soft", None)),
        ({"incremental": (2,)}, (None, None)),
        ({"diagnose": "x.png"}, (None, None)),
    ],
)
def test_when_a_teacher_answers_live(files, typed: dict[str, Any], means: tuple[str | None, str | None]) -> None:
    """By labels or protocol, or because nothing else that is typed has a use for the teacher."""
    config = EvaluateConfig(data=files.data, **typed)
    resolved = resolve_online(config, Bundle.open(files.soft), [Bundle.open(files.teacher)])

    assert means == (resolved.labels, resolved.protocol)


def test_no_teacher_no_live_teacher(files) -> None:
    """And `kd` cannot do without."""
    bundle, config = Bundle.open(files.soft), EvaluateConfig(data=files.data)

    assert resolve_online(config, bundle, []) is config
    with pytest.raises(UsageError, match="--labels online asks a live teacher"):
        resolve_online(replace(config, labels="online"), bundle, [])


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_answers_are_the_mean_logits_of_the_mixed_batch(mix: str) -> None:
    """Of the very images that are trained on; frozen nets, no gradient, hard labels of the first images kept."""
    nets = tuple(
        build("mlp", channels=3, size=8, classes=4, generator=seeding.generator(seed)).eval().requires_grad_(False)
        for seed in range(2)
    )
    live = LiveTeacher((), (), nets, OnlineOptions(mix=mix))
    images, hard = torch.randn(6, 3, 8, 8, generator=seeding.generator(5)), torch.arange(6) % 4
    given = images.clone()
    batches = [live(images, Targets(hard, None, None, None), seeding.generator(3)) for _again in range(2)]
    (seen, targets), (same, _targets) = batches

    assert torch.equal(targets.soft, (nets[0](seen) + nets[1](seen)) / 2)
    assert (targets.domain, targets.soft.requires_grad) == ("logit", False)
    assert torch.equal(seen, same)
    assert torch.equal(images, given)
    assert torch.equal(seen, images) == (mix == "none")
    assert torch.equal(targets.hard, hard)


def test_rows_of_a_live_teacher() -> None:
    """Two losses, two optimisers: one counterpart each."""
    rows = list(online_trials(("kl", "mse"), ("hard", "ce"), [{"lr": 1}, {"lr": 2}], baselines=False))

    assert [(row.labels, row.loss, row.recipe["lr"]) for row in rows] == [
        (labels, loss, lr) for lr in (1, 2) for labels, loss in (("online", "kl"), ("online", "mse"), ("hard", "ce"))
    ]


def test_gvbsms_students_take_its_loss_on_stored_views(run_cli, files, tmp_path: Path) -> None:
    """MSE + w CE by the protocol alone, stored views as they are; what is typed wins."""
    labelled = tmp_path / "fkd.ddset"
    run_cli(
        "augment-labels", files.base, "--teacher", files.teacher, "--kind", "fkd", "--set", "views=2", "-o", labelled
    )
    (own,) = evaluation(run_cli, labelled, files, "--protocol", "gvbsm")["results"]
    (typed,) = evaluation(
        run_cli, labelled, files, "--protocol", "gvbsm", "--loss", "native", "--set", "weight=0.5"
    )["results"]  # fmt: skip
    (other,) = evaluation(run_cli, labelled, files, "--protocol", "gvbsm", "--loss", "kl")["results"]

    assert (own["loss"]["name"], own["loss"]["options"]["weight"], own["labels"]) == ("mse_ce", 0.15, "fkd")
    assert (own["recipe"]["augment"], own["recipe"]["optimizer"], own["recipe"]["lr"]) == ("none", "adamw", 1e-3)
    assert (typed["loss"]["name"], typed["loss"]["options"]["weight"]) == ("mse_ce", 0.5)
    assert other["loss"]["name"] == "kl"
