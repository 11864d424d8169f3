"""Which checkpoint labels: by epoch, by budget, by what students make of it; and how several become one label."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ddlabel.bundle import Bundle, StageRecord
from ddlabel.distilled import read_distilled
from ddlabel.errors import UsageError
from ddlabel.nets._net import build
from ddlabel.teachers import SHARES, Checkpoint, Teacher, checkpoint_section, combine, share_of_best


@pytest.fixture(scope="module")
def pair(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher bundle of two nets."""
    path = tmp_path_factory.mktemp("pair") / "t.ddset"
    outcome = run_cli(
        "train-teacher", "--data", files.data, "--arch", "convnet-d1-w8", "--experts", "2", "--epochs", "6",
        "--keep", "0,1,2,4,6", "--set", "lr=0.1", "--set", "batch=8", "--validation", "0.3", "-o", path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return path


@pytest.mark.parametrize("classes", sorted(SHARES))
def test_shares_pass_through_the_published_budgets(classes: int) -> None:
    """Monotone between them, constant beyond."""
    row = [share_of_best(ipc, classes) for ipc in (1, 10, 50, 100)]
    curve = [share_of_best(ipc, classes) for ipc in range(1, 201)]

    assert list(SHARES[classes]) == row
    assert sorted(curve) == curve
    assert 1.0 == curve[-1]


def test_shares_are_linear_in_the_logarithm_and_take_the_nearest_row() -> None:
    """Half way between 1 and 10 images; 20 classes are nearer to 10 than to 100."""
    middle = share_of_best(3, 10)
    expected = 0.732 + (0.851 - 0.732) * math.log(3) / math.log(10)

    assert pytest.approx(expected) == middle
    assert share_of_best(5, 20) == share_of_best(5, 10)
    assert share_of_best(5, 90) == share_of_best(5, 100)


def test_by_budget_the_earliest_epoch_that_is_good_enough_labels(run_cli, files, pair: Path, tmp_path: Path) -> None:
    """The rule on held-out accuracies, and its result in the history."""
    teacher = Teacher(Bundle.open(pair))
    means = {}
    for checkpoint in teacher.checkpoints:
        means.setdefault(checkpoint.epoch, []).append(checkpoint.accuracy["validation"])
    means = {epoch: sum(values) / len(values) for epoch, values in means.items()}
    wanted = share_of_best(3, 4) * max(means.values())
    earliest = min(epoch for epoch, mean in means.items() if mean >= wanted)
    outcome = run_cli(
        "augment-labels",
        files.base,
        "--teacher",
        pair,
        "--self-test",
        "0",
        "--checkpoint",
        "ipc",
        "-o",
        tmp_path / "s.ddset",
    )
    entry = Bundle.open(tmp_path / "s.ddset").manifest.history[-1]

    assert 0 == outcome.code, outcome.err
    assert earliest == teacher.epoch_for(3)
    assert [earliest] == entry["metrics"]["checkpoint_by_ipc"]
    assert [f"teacher.0.{earliest},teacher.1.{earliest}"] == entry["config"]["checkpoints"]


@pytest.fixture(scope="module")
def base(run_cli, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the data that the pair learned from, the same part held out."""
    path = tmp_path_factory.mktemp("base") / "b.ddset"
    outcome = run_cli(
        "distill", "--data", files.data, "--method", "random", "--ipc", "3", "--validation", "0.3", "-o", path
    )
    assert outcome.code == 0, outcome.err
    return path


def test_auto_takes_the_epoch_whose_labels_teach_best_on_held_out_images(
    run_cli, files, pair: Path, base: Path, tmp_path: Path
) -> None:
    """The same three students for every kept epoch but 0; the labels are the winner's, the table is recorded."""
    common = ("augment-labels", base, "--teacher", pair, "--self-test", "0", "--kind", "dense", "--grid", "2")
    auto = ("--checkpoint", "auto", "--data", files.data, "--auto-epochs", "15")
    outcome = run_cli(*common, *auto, "-o", tmp_path / "a.ddset")
    bundle = Bundle.open(tmp_path / "a.ddset")
    scores = bundle.manifest.history[-1]["metrics"]["validation_accuracy"]
    best = max(scores, key=lambda epoch: (scores[epoch]["mean"], -int(epoch)))
    run_cli(*common, "--checkpoint", best, "-o", tmp_path / "b.ddset")
    named = Bundle.open(tmp_path / "b.ddset")

    assert 0 == outcome.code, outcome.err
    assert {"1", "2", "4", "6"} == set(scores)
    assert {3} == {score["n"] for score in scores.values()}
    assert len({score["mean"] for score in scores.values()}) > 1
    assert torch.equal(bundle.tensor("labels.dense.values"), named.tensor("labels.dense.values"))


def test_auto_looks_at_held_out_images_alone(run_cli, files, pair: Path, base: Path, tmp_path: Path) -> None:
    """Refused: no data; nothing held out; a teacher that saw the held-out images; other data."""
    from ..conftest import write_tiny_npz

    whole = ("--data", files.data, "--validation", "0")
    run_cli("distill", *whole, "--method", "random", "--ipc", "2", "-o", tmp_path / "b.ddset")
    run_cli("train-teacher", *whole, "--arch", "mlp", "--epochs", "1", "-o", tmp_path / "t.ddset")
    other = f"npz:{write_tiny_npz(tmp_path / 'other.npz', seed=9)}"
    auto = ("--checkpoint", "auto", "-o", tmp_path / "s.ddset")
    cases = (
        ((base, "--teacher", pair), 2, "expected --data"),
        ((tmp_path / "b.ddset", "--teacher", tmp_path / "t.ddset", "--data", files.data), 2, "was held out"),
        ((base, "--teacher", tmp_path / "t.ddset", "--data", files.data), 3, "held-out share 0.0, --data has 0.3"),
        ((base, "--teacher", pair, "--data", other), 3, "was made with training data"),
    )

    for arguments, code, message in cases:
        outcome = run_cli("augment-labels", *arguments, *auto)
        assert code == outcome.code, outcome.err
        assert message in outcome.err


def test_a_teacher_without_held_out_accuracies_cannot_be_chosen_by_budget(run_cli, files, tmp_path: Path) -> None:
    """Its test accuracies are there, and not looked at."""
    run_cli(
        "train-teacher", "--data", files.data, "--arch", "mlp", "--epochs", "1", "--validation", "0",
        "-o", tmp_path / "t.ddset",
    )  # fmt: skip

    with pytest.raises(UsageError, match="no held-out accuracies"):
        Teacher(Bundle.open(tmp_path / "t.ddset")).epoch_for(10)


def test_equal_norms_give_every_teacher_the_same_say() -> None:
    """Per sample: scaled to the mean norm, then averaged; independent of the other samples."""
    source = torch.Generator().manual_seed(0)
    small, large = torch.randn(5, 4, generator=source), 100 * torch.randn(5, 4, generator=source)
    combined = combine([small, large], "equal-norm")
    mean_norm = (small.norm(dim=1) + large.norm(dim=1)) / 2
    expected = (small / small.norm(dim=1, keepdim=True) + large / large.norm(dim=1, keepdim=True)) / 2

    torch.testing.assert_close(combined, expected * mean_norm[:, None])
    torch.testing.assert_close(combine([small[2:3], large[2:3]], "equal-norm"), combined[2:3])
    torch.testing.assert_close(combine([small, large], "mean"), (small + large) / 2)
    assert bool(torch.isfinite(combine([torch.zeros(1, 4), torch.zeros(1, 4)], "equal-norm")).all())


def test_the_ensemble_is_an_option_and_is_recorded(run_cli, files, pair: Path, tmp_path: Path) -> None:
    """Two nets, their mean and their equalised mean, are different labels."""
    for how in ("mean", "equal-norm"):
        outcome = run_cli(
            "augment-labels",
            files.base,
            "--teacher",
            pair,
            "--self-test",
            "0",
            "--ensemble",
            how,
            "-o",
            tmp_path / f"{how}.ddset",
        )
        assert 0 == outcome.code, outcome.err
    mean, equal = (Bundle.open(tmp_path / f"{how}.ddset") for how in ("mean", "equal-norm"))

    assert not torch.equal(mean.tensor("labels.soft.values"), equal.tensor("labels.soft.values"))
    assert "equal-norm" == equal.manifest.history[-1]["config"]["ensemble"]


def teacher_of(accuracies: dict[int, list[float | None]], name: str = "dots", classes: int = 2) -> Teacher:
    """A teacher whose nets kept these epochs with these held-out accuracies; the weights are nobody's."""
    net = build("mlp", channels=1, size=1, classes=2, generator=torch.Generator().manual_seed(0))
    sections = [
        checkpoint_section(
            net, Checkpoint(f"teacher.{member}.{epoch}", member, epoch, "mlp", {"validation": value}), seed=0
        )
        for epoch, values in accuracies.items()
        for member, value in enumerate(values)
    ]
    data = DATA | {"name": name, "classes": [str(label) for label in range(classes)]}
    return Teacher(Bundle.create("teacher", data, StageRecord("train-teacher", {}, 0, [], {}, 0.0, 0.0, {}), sections))


DATA = {
    "channels": 1, "height": 1, "width": 1, "train_images": 2,
    "fingerprint": "0" * 64, "validation": {"fraction": 0.5}, "flip": False,
    "space": {"kind": "normalised", "mean": [0.0], "std": [1.0]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "classes", "ipc", "epoch"),
    [
        ("cifar10", 10, 1, 4),
        ("cifar10", 10, 5, 4),
        ("cifar10", 10, 6, 8),
        ("cifar10", 10, 30, 8),
        ("cifar10", 10, 31, 32),
        ("cifar10", 10, 75, 32),
        ("cifar10", 10, 76, 64),
        ("cifar10", 10, 500, 64),
        ("cifar100", 100, 1, 3),
        ("cifar100", 100, 50, 64),
        ("tiny-imagenet", 200, 1, 2),
        ("imagenet", 1000, 1, 1),
        ("imagenet", 1000, 10, 3),
    ],
)
def test_rdeds_teacher_follows_the_table_where_it_has_the_data_set(
    name: str, classes: int, ipc: int, epoch: int
) -> None:
    """Shares 0.732, 0.851, 0.979 and 1 of 0.8 for CIFAR-10: 0.586, 0.681, 0.783, 0.8; untrained nets never guide.

    Up to 5, 30 and 75 images per class. CIFAR-100 0.628 at 1 and 1 at 50, Tiny-ImageNet 0.495, ImageNet 0.275, 0.570.
    """
    accuracy = {0: 0.9, 1: 0.3, 2: 0.4, 3: 0.52, 4: 0.6, 8: 0.7, 32: 0.79, 64: 0.8, 128: 0.79}

    assert epoch == teacher_of({at: [value] for at, value in accuracy.items()}, name, classes).guided_epoch(ipc)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 3), ("dots", 10), ("cifar100", 10)])
def test_name_and_number_of_classes_say_whether_the_table_has_a_data_set(name: str, classes: int) -> None:
    """A part of CIFAR-10, and other data of ten classes, go by half of the last accuracy, 2, and by the last epoch."""
    teacher = teacher_of({1: [0.3], 2: [0.4], 4: [0.6], 64: [0.8], 128: [0.79]}, name, classes)

    assert (2, 128) == (teacher.guided_epoch(1), teacher.guided_epoch(50))


def test_the_table_needs_a_held_out_part_for_any_number_of_images() -> None:
    """It goes by accuracies, in its last column too."""
    with pytest.raises(UsageError, match="no held-out accuracies to choose a checkpoint by"):
        teacher_of({1: [None], 9: [None]}, "cifar10", 10).guided_epoch(100)


@pytest.mark.parametrize(
    ("ipc", "epoch"), [(1, 2), (2, 2), (3, 4), (5, 4), (10, 8), (20, 32), (35, 32), (49, 64), (50, 64), (500, 64)]
)
def test_rdeds_teacher_is_early_for_few_images_and_converged_for_many(ipc: int, epoch: int) -> None:
    """Up to 2 the first epoch with half of the last accuracy, 2; from 50 on 64; between 2 * 32^(ln(i / 2) / ln 25).

    By hand: 3.1 at 3, 5.4 at 5, 11.3 at 10 (as near to 8 as to 16, in ratio), 23.9 at 20, 43.6 at 35, 62.6 at 49.
    """
    accuracy = {0: [0.6], 1: [0.39], 2: [0.4], 4: [0.5], 8: [0.5], 16: [0.6], 32: [0.7], 64: [0.8]}

    assert epoch == teacher_of(accuracy).guided_epoch(ipc)


def test_rdeds_teacher_goes_by_the_mean_of_its_nets_and_needs_a_held_out_part_for_few_images() -> None:
    """Half of 0.8 is reached by (0.6 + 0.3) / 2; a converged teacher needs no accuracy; untrained nets never guide."""
    assert 3 == teacher_of({0: [0.9, 0.9], 1: [0.6, 0.1], 3: [0.6, 0.3], 9: [0.8, 0.8]}).guided_epoch(1)
    assert 9 == teacher_of({1: [None], 9: [None]}).guided_epoch(50)
    with pytest.raises(UsageError, match="no held-out accuracies to choose a checkpoint by"):
        teacher_of({1: [None], 9: [None]}).guided_epoch(49)
    with pytest.raises(UsageError, match="kept no trained epoch"):
        teacher_of({0: [0.5]}).guided_epoch(1)


def test_rdeds_rule_labels_and_tells_epoch_accuracy_and_entropy(run_cli, files, pair: Path, tmp_path: Path) -> None:
    """Of class labels too; entropies by hand."""
    outcome = run_cli(
        "augment-labels",
        files.base,
        "--teacher",
        pair,
        "--self-test",
        "0",
        "--checkpoint",
        "rded",
        "-o",
        tmp_path / "s.ddset",
    )
    assert 0 == outcome.code, outcome.err
    made, teacher = Bundle.open(tmp_path / "s.ddset"), Teacher(Bundle.open(pair))
    entry, epoch = made.manifest.history[-1], teacher.guided_epoch(3)
    images = read_distilled(made).images
    for checkpoint, said in zip(teacher.select(str(epoch)), entry["metrics"]["labellers"], strict=True):
        with torch.inference_mode():
            chances = teacher.net(checkpoint)(images).softmax(1)

        assert (checkpoint.section, epoch) == (said["section"], said["epoch"])
        assert dict(checkpoint.accuracy) == said["accuracy"]
        assert pytest.approx(float(-(chances * chances.log()).sum(1).mean()), rel=1e-5) == said["entropy"]
    assert [epoch] == entry["metrics"]["checkpoint_by_rded"]
    assert "rded" == entry["config"]["checkpoint"]
