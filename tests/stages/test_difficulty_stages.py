"""`--scores`, `--curriculum` and `--filter` through the command line and the files it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ddlabel import seeding
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.bundle import Bundle
from ddlabel.curriculum import Fiex
from ddlabel.data._dataset import load
from ddlabel.difficulty import order
from ddlabel.losses.ce import CrossEntropy
from ddlabel.nets._net import build
from ddlabel.stages.train_teacher import default_recipe
from ddlabel.teachers import Teacher
from ddlabel.training import minibatches
from ddlabel.training import train as train_net

NET = "convnet-d1-w8"
SCORING = ("--set", f"score_arch={NET}", "--set", "score_nets=2", "--set", "score_epoch=2", "--set", "score_lr=0.02")


def train(run_cli, tiny: str, path: Path, *more: str | Path):
    return run_cli("train-teacher", "--data", tiny, *more, "-o", path)


def expert(run_cli, tiny: str, path: Path, *more: str | Path):
    return train(run_cli, tiny, path, "--arch", NET, "--epochs", "3", "--set", "batch=16", "--set", "lr=0.1", *more)


@pytest.fixture(scope="module")
def scores(run_cli, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EL2N of the tiny set, with the two nets that gave it."""
    path = tmp_path_factory.mktemp("scores") / "scores.ddset"
    outcome = train(run_cli, tiny, path, "--experts", "0", "--scores", "el2n", *SCORING)
    assert outcome.code == 0, outcome.err
    return path


def test_scores_alone_keep_the_nets_that_gave_them(scores: Path) -> None:
    """A teacher bundle with a checkpoint per scoring net, and a history that says how they were trained."""
    bundle = Bundle.open(scores, verify=True)
    teacher, history = Teacher(bundle), bundle.manifest.history[-1]

    assert [(item.member, item.epoch, item.arch) for item in teacher.checkpoints] == [
        (0, 2, "convnet-d1-w8-instance"),
        (1, 2, "convnet-d1-w8-instance"),
    ]
    assert tuple(bundle.tensor("scores.el2n").shape) == (44,)
    assert bundle.section("scores.el2n").role == "difficulty"
    assert (history["config"]["arch"], history["config"]["keep"]) == ("convnet-d1-w8-instance", [2])
    assert (history["config"]["recipe"]["lr"], history["config"]["recipe"]["momentum"]) == (0.02, 0.9)
    assert history["config"]["score"]["score_nets"] == 2
    assert history["metrics"]["flops"]["training"] == 0 < history["metrics"]["flops"]["scores"]


def test_scores_do_not_change_the_experts(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """Computed on the way or read from a file, the same scores; with neither, the same nets."""
    outcomes = [
        expert(run_cli, tiny, tmp_path / "plain.ddset"),
        expert(run_cli, tiny, tmp_path / "made.ddset", "--scores", "el2n", *SCORING),
        expert(run_cli, tiny, tmp_path / "read.ddset", "--scores", scores),
    ]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    plain, made, read = (Bundle.open(tmp_path / f"{name}.ddset") for name in ("plain", "made", "read"))

    assert torch.equal(made.tensor("scores.el2n"), read.tensor("scores.el2n"))
    assert made.section("scores.el2n").parameters == read.section("scores.el2n").parameters
    assert [section.name for section in made.sections("teacher")] == ["teacher.0.3"]
    for bundle in (made, read):
        assert torch.equal(
            bundle.tensor("teacher.0.3.classifier.weight"), plain.tensor("teacher.0.3.classifier.weight")
        )


def test_no_path_of_the_machine_is_recorded(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """The file's name, and the digest of its content among the inputs."""
    expert(run_cli, tiny, tmp_path / "e.ddset", "--scores", scores)
    history = Bundle.open(tmp_path / "e.ddset").manifest.history[-1]

    assert history["config"]["scores"] == "scores.ddset"
    assert str(scores.parent) not in json.dumps(history)
    assert history["inputs"] == [{"content": Bundle.open(scores).content, "kind": "teacher"}]


def test_a_curriculum_chooses_what_an_expert_sees(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """The net is that of a run on the easiest half of each class, cut out by hand."""
    half = ("--curriculum", "pad", "--set", "ir=0.5", "--epochs", "1")
    outcome = expert(run_cli, tiny, tmp_path / "c.ddset", "--scores", scores, *half)
    assert outcome.code == 0, outcome.err
    dataset, bundle = load(tiny), Bundle.open(tmp_path / "c.ddset")
    easiest = [row[:5] for row in order(bundle.tensor("scores.el2n"), dataset.train.labels, 4)]
    kept = torch.cat(easiest).sort().values
    net = build(NET, channels=3, size=8, classes=4, generator=seeding.generator(0, "teacher", 0, "init"))
    train_net(
        net,
        minibatches(dataset.train.pixels[kept], dataset.train.labels[kept], batch=16, space=Teacher(bundle).space),
        dataclasses.replace(default_recipe(), lr=0.1, epochs=1),
        CrossEntropy(),
        build_augmentation("dsa", flip=dataset.info.flip),
        seed=0,
        seed_path=("teacher", 0),
    )
    fiex = bundle.manifest.history[-1]["config"]["fiex"]

    assert torch.equal(bundle.tensor("teacher.0.1.classifier.weight"), net.classifier.weight)
    assert (fiex["ir"], fiex["aee"], fiex["r1_epoch"], fiex["r2"]) == (0.5, 20, 40, 0.1)
    assert torch.equal(Fiex(**fiex).subset(0, order(bundle.tensor("scores.el2n"), dataset.train.labels, 4)), kept)
    flops = bundle.manifest.history[-1]["metrics"]["flops"]
    assert flops["training"] == 3 * flops["forward"] * len(kept)
    assert "warning: the curriculum adds hard images until epoch 20, the run ends after 1" in outcome.err


def test_a_curriculum_of_everything_changes_nothing(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """IR 1 and no removal: bit for bit the nets without a curriculum."""
    everything = ("--curriculum", "pad", "--set", "ir=1", "--set", "r1=0", "--set", "r2=0")
    expert(run_cli, tiny, tmp_path / "plain.ddset")
    expert(run_cli, tiny, tmp_path / "all.ddset", "--scores", scores, *everything)
    plain, same = (Bundle.open(tmp_path / f"{name}.ddset") for name in ("plain", "all"))

    for name in plain.section("teacher.0.3").tensors:
        assert torch.equal(plain.tensor(name), same.tensor(name))


def test_a_curriculum_changes_what_is_learned(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """Less data in each early epoch, another net."""
    expert(run_cli, tiny, tmp_path / "plain.ddset")
    expert(run_cli, tiny, tmp_path / "pad.ddset", "--scores", scores, "--curriculum", "pad", "--experts", "2")
    plain, pad = (Bundle.open(tmp_path / f"{name}.ddset") for name in ("plain", "pad"))

    assert not torch.equal(plain.tensor("teacher.0.3.classifier.weight"), pad.tensor("teacher.0.3.classifier.weight"))
    assert pad.section("trajectory.1").parameters["curriculum"] == "pad"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--curriculum", "pad"], "needs difficulty scores; add --scores el2n"),
        (["--curriculum", "pda", "--scores", "el2n"], "unknown curriculum 'pda'; did you mean 'pad'?"),
        (["--scores", "el2m"], "unknown score 'el2m'; did you mean 'el2n'?"),
        (["--scores", "gone.npy"], "'gone.npy', no such file"),
        (["--set", "aee=3"], "option 'aee' is of --curriculum, which is not given"),
        (["--set", "score_nets=3"], "option 'score_nets' is of scores computed by --scores NAME, which is not given"),
        (["--scores", "el2n", "--set", "score_net=3"], "unknown option 'score_net'; did you mean 'score_nets'?"),
        (["--scores", "el2n", "--set", "score_nets=0"], "'score_nets' is 0, expected a number >= 1"),
        (["--scores", "el2n", "--curriculum", "pad", "--set", "ir=2"], "'ir' is 2.0, expected a number >= 0 and <= 1"),
        (["--experts", "0", "--scores", "el2n", "--set", "lr=1"], "'lr' is of the nets that --experts trains"),
        (["--experts", "0", "--scores", "el2n", "--keep", "1"], "'keep' is of the nets that --experts trains"),
        (["--experts", "0", "--scores", "el2n", "--arch", NET], "scoring nets' by --set score_arch="),
        (["--experts", "0"], "option 'experts' is 0 and there are no --scores"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_combine_are_refused(
    run_cli, tiny: str, tmp_path: Path, options: list[str], message: str
) -> None:
    """Exit 2 before any work, saying what to type."""
    outcome = train(run_cli, tiny, tmp_path / "t.ddset", *options)

    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "t.ddset").exists()


def test_all_problems_are_told_at_once(run_cli, tiny: str, tmp_path: Path) -> None:
    """Of scores, curriculum and recipe."""
    bad = ("--scores", "el2m", "--curriculum", "pad", "--set", "lr=0", "--set", "ir=2", "--set", "score_nets=2")
    outcome = train(run_cli, tiny, tmp_path / "t.ddset", *bad)

    assert outcome.code == 2
    for part in ("'el2m'", "'lr' is 0.0", "'ir' is 2.0"):
        assert part in outcome.err
    assert "'score_nets'" not in outcome.err


def test_reading_scores_and_training_nothing_is_refused(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """A bundle like the one that was given would come out."""
    outcome = train(run_cli, tiny, tmp_path / "t.ddset", "--experts", "0", "--scores", scores)

    assert outcome.code == 2
    assert "nothing is left to do" in outcome.err


def test_scores_of_another_held_out_share_are_refused(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """Exit 3, naming both sides."""
    outcome = expert(run_cli, tiny, tmp_path / "t.ddset", "--scores", scores, "--validation", "0.3")

    assert outcome.code == 3
    assert "held-out share 0.1, the data set 'tiny' has 0.3" in outcome.err


def test_a_filter_drops_the_hardest_before_distilling(run_cli, tiny: str, scores: Path, tmp_path: Path) -> None:
    """Chosen images are among the easier half, and named by their place in the whole training split."""
    command = ("distill", "--data", tiny, "--method", "random", "--ipc", "5", "--teacher", scores)
    outcome = run_cli(*command, "--filter", "hard:0.5", "-o", tmp_path / "d.ddset")
    assert outcome.code == 0, outcome.err
    bundle, split = Bundle.open(tmp_path / "d.ddset"), load(tiny).train
    chosen = bundle.tensor("scores.selection.indices").long()
    easier = {
        index for row in order(Bundle.open(scores).tensor("scores.el2n"), split.labels, 4) for index in row[:6].tolist()
    }

    assert set(chosen.tolist()) <= easier
    assert torch.equal(bundle.tensor("images.pixels"), split.pixels[chosen])
    assert bundle.manifest.data["train_images"] == 44
    assert bundle.manifest.history[-1]["config"]["filter"] == "hard:0.5"
    assert bundle.manifest.history[-1]["inputs"] == [{"content": Bundle.open(scores).content, "kind": "teacher"}]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--filter", "hard"], 2, "expected hard:RATIO or easy:RATIO"),
        (["--filter", "hard:0.2"], 2, "no --teacher was given; run 'ddlabel train-teacher"),
        (["--filter", "hard:0.9", "--teacher", "SCORES"], 4, "2 are left by the filter, --ipc asks for 5"),
    ],
    ids=["unreadable", "no scores", "too few left"],
)
def test_a_filter_that_cannot_be_is_refused(
    run_cli, tiny: str, scores: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    """Nothing is written."""
    given = [scores if option == "SCORES" else option for option in options]
    outcome = run_cli("distill", "--data", tiny, "--method", "random", "--ipc", "5", *given, "-o", tmp_path / "d.ddset")

    assert outcome.code == code
    assert message in outcome.err
    assert not (tmp_path / "d.ddset").exists()
