"""G-VBSM: its loss put together again by hand, the order of nets and images, what a stop may not change, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.bundle import Bundle
from ddlabel.distill._averages import distance
from ddlabel.distill._densify import densify
from ddlabel.distill._method import Problem, State, run
from ddlabel.distill._method import check as check_method
from ddlabel.distill._statistics import collect_targets, hooked_layers, measured
from ddlabel.distill.g_vbsm import METHOD, Choice, kept_layers, published
from ddlabel.errors import UsageError
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.zca import Zca

from .conftest import trained_nets

MakeProblem = Callable[..., Problem]
PLAIN: dict[str, Any] = {"augment": "none", "roll": 0, "drop": 0.0}


def states(method: METHOD, problem: Problem) -> list[State]:
    """After every step."""
    kept: list[State] = []
    run(method, problem, on_checkpoint=lambda _done, state: kept.append(state))
    return kept


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (32, Choice(0.05, 100, 50, 4, 0.8, 0.4, "crop-flip")),
        (64, Choice(0.05, 100, 5, 4, 0.8, 0.4, "crop-flip")),
        (224, Choice(0.1, 80, 50, 16, 0.4, 0.0, "imagenet-crop")),
    ],
    ids=["CIFAR", "Tiny-ImageNet", "ImageNet-1K"],
)
def test_auto_is_published_for_the_size(side: int, expected: Choice) -> None:
    """At 50 images per class."""
    assert expected == published(side, 50)


def test_what_auto_stood_for_is_recorded(make_problem: MakeProblem) -> None:
    """Beside what was given, which wins."""
    recorded = METHOD(batch=7).record(make_problem())["options"]

    assert {
        "batch": 7,
        "lr_images": 0.05,
        "patch": 4,
        "per_class": 4,
        "augment": "crop-flip",
    }.items() <= recorded.items()
    assert None not in {recorded[name] for name in dataclasses.asdict(published(8, 4))}


def test_images_of_a_class_stand_together_as_published(make_problem: MakeProblem) -> None:
    """Class after class, or a group of each class at a time; cut into batches, every image once."""
    problem = make_problem()
    by_class = METHOD(batch=5).batches(problem)
    in_groups = METHOD(batch=100, per_class=3).batches(problem)

    assert [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]] == [rows.tolist() for rows in by_class]
    assert [[0, 1, 2, 4, 5, 6, 8, 9, 10, 3, 7, 11]] == [rows.tolist() for rows in in_groups]


def test_the_loss_is_the_sum_of_its_published_parts(make_problem: MakeProblem) -> None:
    """Second visit of net 2, by hand: cross entropy, weighted distances of running averages, L_DD."""
    problem = make_problem()
    method = METHOD(steps=6, alpha=0.3, statistics_weight=0.5, densify_weight=2.0, **PLAIN)
    targets = collect_targets(problem.backbones, [problem.space.encode(problem.pixels)], 4)[1]
    net = problem.backbones[1]
    layers = hooked_layers(net)
    before = states(method, problem)
    seen = [measured(net, layers, [True] * len(layers), before[step - 1]["batch"], 4) for step in (1, 3)]
    labels = torch.arange(12) // 4
    entropy = functional.cross_entropy(seen[1][0], labels)
    averages = [0.3 * old + 0.7 * new for old, new in zip(seen[0][1], seen[1][1], strict=True)]
    distances = [distance(*each) for each in zip(layers, averages, targets, strict=True)]
    spread = densify(before[2]["batch"], labels, tau=4.0)
    _state, metrics = method.step(problem, before[2], 3, generator(0, "distill", "step", 3))

    assert float(entropy) == pytest.approx(metrics["ce"], rel=1e-5)
    assert float(10 * distances[0] + sum(distances[1:])) == pytest.approx(metrics["statistics"], rel=1e-4)
    assert float(spread) == pytest.approx(metrics["densify"], rel=1e-4)
    expected = metrics["ce"] + 0.5 * metrics["statistics"] + 2 * metrics["densify"]
    assert expected == pytest.approx(metrics["loss"], rel=1e-5)


def test_nets_take_turns_and_every_batch_begins_with_the_first(make_problem: MakeProblem) -> None:
    """Three steps, two nets: 1 2 1 | 1 2 1; averages are forgotten at the border, or kept in compat."""
    for compat in (False, True):
        after = states(METHOD(steps=3, batch=6, compat=compat, **PLAIN), make_problem())
        known = [[bool(state[f"known.{net}"].any()) for net in (0, 1)] for state in after]
        moved = [
            [net for net in (0, 1) if not torch.equal(one[f"average.{net}"], two[f"average.{net}"])]
            for one, two in itertools.pairwise(after)
        ]

        assert ([[True, True]] * 6 if compat else [[True, False], [True, True], [True, True]] * 2) == known
        assert [[1], [0], [0], [1], [0]] == moved


def test_compat_begins_its_averages_at_zero(make_problem: MakeProblem) -> None:
    """A fifth of the first statistics, where the default takes them whole."""
    whole, part = (
        states(METHOD(steps=1, compat=compat, **PLAIN), make_problem())[0]["average.0"] for compat in (False, True)
    )

    torch.testing.assert_close(0.2 * whole, part)


def test_convolutions_are_dropped_by_chance_and_nothing_else_is_drawn_anew(make_problem: MakeProblem) -> None:
    """Batch norms always count; images are the same bits where statistics have no weight."""
    problem = make_problem()
    images = [run(METHOD(steps=3, statistics_weight=0.0, drop=drop), problem).pixels for drop in (0.0, 0.6)]
    assert images[0] is not None
    assert images[1] is not None
    assert torch.equal(images[0], images[1])

    layers, draws = hooked_layers(problem.backbones[1]), generator(0)
    kept = torch.tensor([kept_layers(layers, 0.25, draws) for _step in range(300)]).double().mean(dim=0)
    fewer, more = (torch.tensor(kept_layers(layers * 9, drop, generator(1))) for drop in (0.7, 0.3))

    assert [False, True, False, True] == [layer.is_norm for layer in layers]
    assert [1.0, 1.0] == kept[1::2].tolist()
    assert all(abs(float(share) - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 300) for share in kept[::2])
    assert bool((more >= fewer).all())


def test_all_images_of_a_batch_are_augmented_alike(make_problem: MakeProblem) -> None:
    """Shifted, mirrored where that is fair, and rolled: every row of equal images stays equal, gradients pass."""
    ramp = torch.arange(64.0).reshape(1, 1, 8, 8).expand(5, 3, 8, 8)
    for augment in ("crop-flip", "imagenet-crop"):
        for flip in (True, False):
            problem = make_problem(flip=flip)
            seen = [METHOD(augment=augment, roll=0).augmented(problem, ramp, 0, generator(draw)) for draw in range(24)]
            mirrored = [bool((views[0, 0].diff(dim=1) < 0).sum() > 28) for views in seen]

            assert all(torch.equal(views, views[:1].expand(5, 3, 8, 8)) for views in seen)
            assert flip == any(mirrored)
            assert not all(mirrored)
    leaf = torch.ones(2, 3, 8, 8, requires_grad=True)
    METHOD().augmented(make_problem(), leaf, 0, generator(1)).sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.any())
    rolled = METHOD(augment="none", roll=32).augmented(make_problem(), ramp, 0, generator(3))
    assert torch.equal(ramp.sort().values.sum(), rolled.sort().values.sum())


def test_stopping_changes_no_bit_across_batches(make_problem: MakeProblem) -> None:
    """Two batches of three steps, continued from each step's state as it is stored."""
    method, problem = METHOD(steps=3, batch=7), make_problem()
    after = states(method, problem)
    whole = run(method, problem).pixels
    assert whole is not None

    assert 6 == len(after)
    for done, state in enumerate(after, start=1):
        again = run(method, make_problem(), start=(done, {name: value.clone() for name, value in state.items()}))
        assert again.pixels is not None
        assert torch.equal(whole, again.pixels)


def test_recovered_images_are_known_as_their_classes(make_problem: MakeProblem) -> None:
    """Cross entropy and distances fall; the net knows the pixels that are stored."""
    problem, seen = make_problem(), []
    method = METHOD(steps=40, lr_images=0.2, augment="none", roll=2, drop=0.0, densify_weight=0.0)
    made = run(method, problem, on_event=lambda event: seen.append(event.metrics) if event.total else None)
    assert made.pixels is not None
    guesses = problem.backbones[0](problem.space.encode(made.pixels)).argmax(dim=1)
    falls = {
        name: sum(each[name] for each in seen[-4:]) / sum(each[name] for each in seen[:4])
        for name in ("loss", "ce", "statistics")
    }

    assert falls["loss"] < 0.9
    assert falls["ce"] < 0.9
    assert falls["statistics"] < 0.8
    assert float((guesses == made.labels).float().mean()) > 0.8


class Reader:
    """Pixels in a file: rows by index tensors, nothing else."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.read = pixels, []  # type: ignore[var-annotated]
        self.shape, self.device = pixels.shape, pixels.device

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor) -> Tensor:
        assert isinstance(rows, Tensor)
        self.read.append(rows)
        return self.pixels[rows]


def test_targets_are_read_in_one_pass_of_small_batches(make_problem: MakeProblem) -> None:
    """Every image once, or as many as asked for; pixels may lie in a file."""
    for asked, count in ((None, 28), (11, 11), (99, 28)):
        reader = Reader(make_problem().pixels)
        problem = dataclasses.replace(make_problem(), pixels=reader)
        METHOD(target_images=asked, target_batch=8).prepare(problem, generator(0))
        rows = torch.cat(reader.read)

        assert count == len(rows) == len(rows.unique())
        assert max(len(each) for each in reader.read) == 8


def test_nets_without_layers_to_compare_are_refused(make_problem: MakeProblem) -> None:
    """And whitened images, which have no box of pixels."""
    whitened = Space("zca", (0.0,) * 3, (1.0,) * 3, Zca(torch.zeros(192), torch.eye(192), torch.eye(192), 0.1))

    with pytest.raises(UsageError, match="net 2 of 2 has neither batch norm nor convolutions") as caught:
        check_method(METHOD(), make_problem(backbones=trained_nets("convnet-d1-w4-bn", "mlp")))
    assert "--arch" in str(caught.value.hint)
    with pytest.raises(UsageError, match="ZCA"):
        check_method(METHOD(), make_problem(space=whitened))


def test_notes_say_what_the_nets_are_short_of(make_problem: MakeProblem) -> None:
    """One alone, or none of batch norm; a net without it is compared by its convolutions."""
    alone = make_problem(backbones=trained_nets("convnet-d1-w4-instance"))
    said = " ".join(METHOD().notes(alone))
    result = run(METHOD(steps=2), alone)

    assert "one net only" in said
    assert "1 of 1 nets have no batch norm" in said
    assert "28 training images" in said
    assert result.pixels is not None
    assert result.pixels.float().std() > 1
    assert "one net" not in " ".join(METHOD().notes(make_problem()))


def test_memory_follows_the_batch(make_problem: MakeProblem) -> None:
    """Up to the images there are."""
    needed = [METHOD(batch=batch, target_images=1).memory(make_problem()) for batch in (3, 6, 12, 99)]

    assert needed[0] < needed[1] < needed[2] == needed[3]


def test_a_bundle_is_made_of_two_different_teachers(run_cli, tmp_path: Path) -> None:
    """Through the command line: both are inputs, options are recorded, the bundle is labelled by both."""
    from tests.conftest import write_tiny_npz

    data = f"npz:{write_tiny_npz(tmp_path / 'tiny.npz', side=16)}"
    teachers = [tmp_path / "a.ddset", tmp_path / "b.ddset"]
    for path, arch in zip(teachers, ("convnet-d2-w8-bn", "convnet-d1-w8-instance"), strict=True):
        run_cli(
            "train-teacher", "--data", data, "--arch", arch, "--epochs", "4", "--set", "lr=0.1", "--set", "batch=8",
            "--set", "augment=none", "-o", path,
        )  # fmt: skip
    given = [word for path in teachers for word in ("--teacher", path)]
    made = run_cli(
        "distill", "--data", data, "--method", "g-vbsm", "--ipc", "2", *given, "--set", "steps=4", "--self-test", "1.2",
        "-o", tmp_path / "d.ddset",
    )  # fmt: skip
    assert 0 == made.code, made.err
    bundle = Bundle.open(tmp_path / "d.ddset", verify=True)
    entry = bundle.manifest.history[0]
    labelled = run_cli(
        "augment-labels", tmp_path / "d.ddset", *given, "--kind", "fkd", "--set", "views=2", "--self-test", "1.2",
        "-o", tmp_path / "l.ddset",
    )  # fmt: skip

    assert 0 == labelled.code, labelled.err
    assert (8, 3, 16, 16) == tuple(bundle.tensor("images.pixels").shape)
    assert [Bundle.open(path).content for path in teachers] == [item["content"] for item in entry["inputs"]]
    assert {"steps": 4, "patch": 4, "drop": 0.4, "alpha": 0.8}.items() <= entry["config"]["options"].items()
    assert 2 == entry["metrics"]["backbones"]
    assert "--teacher" in run_cli("distill", "--data", data, "--method", "g-vbsm", "-o", tmp_path / "x.ddset").err
