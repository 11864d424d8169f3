"""Experts: trajectories that `train-teacher --experts N` records, whoever records them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddlabel.bundle import Bundle
from ddlabel.config import TrainTeacherConfig
from ddlabel.errors import BundleError, DivergedError, UsageError
from ddlabel.events import Event
from ddlabel.nets._net import build
from ddlabel.schedules import Recipe
from ddlabel.seeding import generator
from ddlabel.stages import _experts
from ddlabel.stages._experts import Recorder, Store, course, kept_epochs, recorded_epochs
from ddlabel.stages.train_teacher import run
from ddlabel.teachers import Teacher
from ddlabel.trajectories import Trajectories, flatten, flatten_buffers

NET = "convnet-d1-w8-bn"


def train(tiny: str, settings: dict[str, Any] | None = None, **options: Any) -> Bundle:
    config = {"data": tiny, "arch": NET, "epochs": 3, "experts": 1, **options}
    return run(TrainTeacherConfig(**config), {"batch": 16, **(settings or {})})


def rows(bundle: Bundle, expert: int = 0) -> Tensor:
    return bundle.tensor(f"trajectory.{expert}")


@pytest.fixture(scope="module")
def four(tiny: str) -> Bundle:
    """Experts 0 to 3, made by one process."""
    return train(tiny, experts=4, keep=(0, 2, 3))


def test_rows_are_the_parameters_after_each_epoch(four: Bundle) -> None:
    """Those of the checkpoints kept beside them, parameters and running statistics, bit for bit."""
    teacher = Teacher(four)

    assert rows(four).dtype == torch.float32
    for checkpoint in teacher.checkpoints:
        net, name = teacher.net(checkpoint), f"trajectory.{checkpoint.member}"
        assert torch.equal(four.slice(name, checkpoint.epoch, checkpoint.epoch + 1)[0], flatten(net))
        assert torch.equal(four.tensor(f"{name}.buffers")[checkpoint.epoch], flatten_buffers(net))


def test_no_two_epochs_are_alike(four: Bundle) -> None:
    """On the CPU a row that is no copy would follow the net: all rows would be the last."""
    for expert in range(4):
        assert rows(four, expert).shape[0] == 4
        for left, right in itertools.combinations(rows(four, expert), 2):
            assert not torch.equal(left, right)


def test_two_processes_make_what_one_makes(tiny: str, four: Bundle) -> None:
    """Experts 0 and 1, and 2 and 3, in bundles of their own: every bit of trajectories and checkpoints."""
    halves = [train(tiny, experts=2, first_expert=first, keep=(0, 2, 3)) for first in (0, 2)]
    made = {name: record["sha256"] for half in halves for s in half.sections() for name, record in s.tensors.items()}
    whole = {name: record["sha256"] for section in four.sections() for name, record in section.tensors.items()}

    assert made == whole
    assert len({whole[f"trajectory.{expert}"] for expert in range(4)}) == 4
    assert len(Trajectories(halves)) == 4


def test_the_section_says_how_the_expert_was_made(four: Bundle) -> None:
    """Net, number, epochs, seed, recipe, curriculum, and the accuracy of the last checkpoint."""
    said = four.section("trajectory.2").parameters
    (last,) = [item for item in Teacher(four).checkpoints if (item.member, item.epoch) == (2, 3)]

    assert (said["arch"], said["member"], said["epochs"], said["seed"]) == ("convnet-d1-w8-batch", 2, [0, 1, 2, 3], 0)
    assert (said["recipe"]["optimizer"], said["recipe"]["batch"], said["curriculum"]) == ("sgd", 16, None)
    assert said["accuracy"] == last.accuracy


def test_only_the_epochs_asked_for_are_recorded(tiny: str, four: Bundle) -> None:
    """The same rows as of the whole trajectory; checkpoints stay as they are."""
    some = train(tiny, keep_epochs="1-2")

    assert torch.equal(rows(some), rows(four)[1:3])
    assert some.section("trajectory.0").parameters["epochs"] == [1, 2]
    assert some.section("trajectory.0").parameters["accuracy"] == four.section("trajectory.0").parameters["accuracy"]
    assert [section.name for section in some.sections("teacher")] == ["teacher.0.3"]


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({}, True),
        ({"keep_epochs": "none"}, False),
        ({"experts": None}, False),
        ({"experts": None, "keep_epochs": "all"}, True),
    ],
    ids=["experts", "experts, none kept", "a teacher", "a teacher, all kept"],
)
def test_who_records(tiny: str, options: dict[str, Any], recorded: bool) -> None:
    """All epochs when experts are asked for, none else; `--keep-epochs` decides when it is given."""
    assert train(tiny, **options).has("trajectory.0") is recorded


def test_nets_without_buffers_record_none(tiny: str) -> None:
    """Instance norm keeps no statistics."""
    assert list(train(tiny, arch="convnet-d1-w4").section("trajectory.0").tensors) == ["trajectory.0"]


def test_whitened_experts_are_read_with_their_space(tiny: str) -> None:
    """Trajectory, checkpoint and transform travel together; the initialisation does not depend on the space."""
    made = train(tiny, space="zca")

    assert Trajectories([made]).space.kind == "zca"
    assert torch.equal(rows(made)[0], rows(train(tiny))[0])
    assert not torch.equal(rows(made)[1], rows(train(tiny))[1])


def test_trajectories_larger_than_memory_wait_on_disk(
    tiny: str, four: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content; the bundle is whole after the stage has ended, and so is the file it is saved to."""
    monkeypatch.setattr(_experts, "SPOOL_BYTES", 0)
    opened: list[object] = []
    spool = _experts.Spool
    monkeypatch.setattr(_experts, "Spool", lambda: opened.append(spool()) or opened[-1])
    spooled = train(tiny, experts=4, keep=(0, 2, 3))
    opened.clear()
    spooled.save(tmp_path / "e.ddset")

    assert spooled.content == four.content
    assert spooled.verify() == []
    assert Bundle.open(tmp_path / "e.ddset", verify=True).content == four.content


def test_memory_is_enough_for_small_ones(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is opened up to the limit."""
    size = 4 * rows(train(tiny)).numel()
    opened: list[int] = []
    spool = _experts.Spool
    monkeypatch.setattr(_experts, "Spool", lambda: opened.append(1) or spool())
    for limit in (size, size - 1):
        monkeypatch.setattr(_experts, "SPOOL_BYTES", limit)
        train(tiny)

    assert opened == [1]


def test_a_failed_run_frees_its_disk_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of a store that was not released are gone with it."""
    monkeypatch.setattr(_experts, "SPOOL_BYTES", 0)
    recorder = Recorder(range(1))
    recorder.take(build(NET, channels=3, size=8, classes=2, generator=generator(0, "net")), 0)
    about = {"arch": NET, "seed": 0, "recipe": {}, "curriculum": None, "accuracy": {}}
    with pytest.raises(DivergedError), Store(1) as store:
        section = store.section(0, recorder, **about)
        raise DivergedError("the next expert")

    assert recorder.rows == []
    with pytest.raises(BundleError, match="is closed"):
        section.tensors["trajectory.0"].read()


def test_presets_are_under_what_is_set(tiny: str) -> None:
    """`--optimizer` gives Recipe fields, `--set` overrides them; the history says what ran."""

    def made(optimizer: str, settings: dict[str, Any]) -> Any:
        bundle = train(tiny, settings, optimizer=optimizer)
        assert bundle.manifest.history[0]["config"]["recipe"] == bundle.section("trajectory.0").parameters["recipe"]
        return bundle.section("trajectory.0").parameters["recipe"]

    gsam, smooth = made("gsam", {"alpha": "1"}), made("smooth", {"momentum": "0.5", "loss_decay": "true"})

    assert (gsam["optimizer"], gsam["rho"], gsam["alpha"], gsam["adaptive"], gsam["lr"]) == (
        "gsam",
        0.01,
        1,
        True,
        0.01,
    )
    assert (smooth["optimizer"], smooth["momentum"], smooth["weight_decay"], smooth["lr"], smooth["schedule"]) == (
        "sgd",
        0.5,
        1e-3,
        3e-3,
        "ast",
    )
    assert (smooth["loss_decay"], smooth["gradient_penalty"]) == (True, 0)


def test_optimisers_start_alike_and_part_ways(tiny: str, four: Bundle) -> None:
    """The initialisation is that of the seed and number; GSAM of no ascent is SGD up to rounding."""
    made = {name: rows(train(tiny, optimizer=name)) for name in ("gsam", "smooth")}
    still = rows(train(tiny, {"rho": "0"}, optimizer="gsam"))

    for trajectory in (*made.values(), still):
        assert torch.equal(trajectory[0], rows(four)[0])
    assert not torch.allclose(made["gsam"][3], rows(four)[3], rtol=0, atol=1e-6)
    assert not torch.allclose(made["smooth"][3], rows(four)[3], rtol=0, atol=1e-6)
    torch.testing.assert_close(still, rows(four))


def test_an_expert_is_reported_with_its_schedule(tiny: str) -> None:
    """79 % and 84.8 % of the same net are both right, of different schedules."""
    events: list[Event] = []
    config = TrainTeacherConfig(data=tiny, arch=NET, epochs=1, experts=1, first_expert=5)
    run(config, {"batch": "16"}, on_event=events.append)
    (message,) = [event.message for event in events if event.phase == "expert"]

    assert message is not None
    assert message.startswith("expert 5: validation ")
    assert message.endswith("% after 1 epochs of sgd at 0.01 constant, batch 16, dsa augmentation")


def test_a_course_names_what_makes_accuracies_differ() -> None:
    """Epochs that are really run, optimiser, step size, schedule, batch, augmentation."""
    recipe = Recipe(optimizer="gsam", lr=0.02, schedule="step", epochs=10, batch=64, augment="none")

    assert course(recipe) == "11 epochs of gsam at 0.02 step, batch 64, none augmentation"


@pytest.mark.parametrize(
    ("text", "experts", "expected"),
    [
        ("auto", True, range(7)),
        ("auto", False, range(0)),
        ("all", False, range(7)),
        ("none", True, range(0)),
        ("0-6", True, range(7)),
        (" 2-2 ", True, range(2, 3)),
        ("3-5", False, range(3, 6)),
    ],
)
def test_epochs_that_are_recorded(text: str, experts: bool, expected: range) -> None:
    """Both ends are included."""
    assert recorded_epochs(text, 6, experts=experts) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3-7", "ends at epoch 7, the training at epoch 6; raise --epochs"),
        ("5-3", "is '5-3', its first epoch 5 comes after its last 3"),
        ("5", "is '5', expected auto, all, none or FIRST-LAST such as 0-6"),
        ("-1-3", "is '-1-3', expected auto, all, none or FIRST-LAST"),
        ("1-2-3", "expected auto, all, none or FIRST-LAST"),
        ("", "is '', expected auto, all"),
    ],
)
def test_other_epochs_are_refused(text: str, message: str) -> None:
    """With both sides named."""
    with pytest.raises(UsageError, match=f"option 'keep_epochs' .*{message}"):
        recorded_epochs(text, 6, experts=True)


def test_checkpoints_default_to_the_last_epoch() -> None:
    """The one that is really run last."""
    assert kept_epochs((), Recipe(schedule="step", epochs=4).rounds) == {5}
    assert kept_epochs((0, 5), 5) == {0, 5}


def test_everything_wrong_is_said_at_once(run_cli: Any, tiny: str, tmp_path: Path) -> None:
    """Exit 2 before any training: epochs of checkpoints and of trajectories, and nothing to do."""
    outcome = run_cli(
        "train-teacher", "--data", tiny, "--epochs", "2", "--keep", "4", "--keep-epochs", "1-9", "--experts", "0",
        "-o", tmp_path / "t.ddset",
    )  # fmt: skip

    assert outcome.code == 2
    assert "'keep' names epoch 4, expected epochs from 0 to 2" in outcome.err
    assert "'keep_epochs' ends at epoch 9, the training at epoch 2" in outcome.err
    assert "'experts' is 0 and there are no --scores, expected experts to train or scores to make" in outcome.err
    assert not (tmp_path / "t.ddset").exists()


def test_arithmetic_counts_both_passes(tiny: str) -> None:
    """GSAM costs twice; experts add up."""

    def flops(**options: Any) -> Any:
        return train(tiny, epochs=1, **options).manifest.history[0]["metrics"]["flops"]["training"]

    assert flops(experts=2) == flops(optimizer="gsam") == 2 * flops()
