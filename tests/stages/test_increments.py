"""Class-incremental steps: sizes, orders, memories, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ddlabel.bundle import Bundle
from ddlabel.config import EvaluateConfig
from ddlabel.distilled import read_distilled
from ddlabel.errors import UsageError
from ddlabel.events import Event
from ddlabel.labels._labels import read_labels
from ddlabel.stages._incremental import memory_of, seen_accuracy
from ddlabel.stages._increments import resolve_increments, step_sizes
from ddlabel.stages._label_kinds import usable_beside
from ddlabel.stages._plan import Plan
from ddlabel.students import StudentData


@pytest.mark.parametrize(
    ("classes", "steps", "sizes"),
    [(200, 5, [40] * 5), (200, 10, [20] * 10), (10, 4, [3, 3, 2, 2]), (7, 7, [1] * 7), (5, 2, [3, 2])],
)
def test_steps_are_as_equal_as_can_be(classes: int, steps: int, sizes: list[int]) -> None:
    """Larger ones first."""
    assert sizes == step_sizes(classes, steps)


def test_orders_are_permutations_that_follow_from_the_seed() -> None:
    """The same again, others under another seed; the first orders do not depend on how many there are."""
    few, more, other = (
        resolve_increments(EvaluateConfig(data="x", incremental=(5,), orders=orders, seed=seed), {}, 10, "hard")[0]
        for orders, seed in ((2, 0), (3, 0), (2, 1))
    )

    assert few.orders == more.orders[:2] != other.orders
    assert all(sorted(order) == list(range(10)) for order in more.orders)
    assert few.seen(5, 1, 2).tolist() == list(few.orders[1][:6])


def test_the_protocol_takes_five_steps_and_the_option_others() -> None:
    """Equal numbers once; without either, all classes come at once."""
    steps = [
        resolve_increments(EvaluateConfig(data="x", **said), {"lr": "1"}, 10, "soft")
        for said in ({"protocol": "continual"}, {"incremental": (10, 5, 10)}, {"protocol": "gift"})
    ]

    assert [(5,), (10, 5), None] == [found and found.steps for found, _settings in steps]
    assert all({"lr": "1"} == settings for _found, settings in steps)


def test_full_labels_are_flagged() -> None:
    """Only where they say more than a class."""
    config = EvaluateConfig(data="x", incremental=(2,))
    increments, settings = resolve_increments(config, {"future": "full", "lr": "1"}, 4, "soft")

    assert {"lr": "1"} == settings
    assert [True, False] == [increments.record(kind)["leaks_future_classes"] for kind in ("soft", "hard")]
    assert not resolve_increments(config, {}, 4, "soft")[0].leaks("soft")


@pytest.mark.parametrize(
    ("said", "settings", "labels", "message"),
    [
        ({"incremental": (5,)}, {}, "soft", "5 steps, the data has 4 classes: expected 2 to 4"),
        ({"incremental": (2,)}, {}, "soft+feature", "use --labels soft"),
        ({"incremental": (2,)}, {}, "online", "--labels online"),
        ({"incremental": (2,), "protocol": "ddranking"}, {}, "soft", "--protocol ddranking"),
        ({"incremental": (2,)}, {"future": "half"}, "soft", "slice"),
    ],
)
def test_what_cannot_come_in_steps_is_refused(said, settings, labels: str, message: str) -> None:
    """With advice."""
    with pytest.raises(UsageError, match=message.replace("+", r"\+")):
        resolve_increments(EvaluateConfig(data="x", **said), settings, 4, labels)


def test_a_memory_holds_all_images_of_the_classes_so_far_and_no_others(files) -> None:
    """With their labels; class numbers stay."""
    bundle = Bundle.open(files.soft)
    data = StudentData(read_distilled(bundle), read_labels(bundle, "soft"))
    memory = memory_of(data, torch.tensor([3, 1]), samples=4)
    own = [index for index, label in enumerate(data.distilled.labels.tolist()) if label in {1, 3}]

    assert 6 == len(own)
    assert torch.equal(memory.distilled.images, data.distilled.images[own])
    assert memory.distilled.labels.tolist() == [1, 1, 1, 3, 3, 3]
    assert torch.equal(memory.labels.values, data.labels.values[own])
    assert (4, data.distilled.classes) == (memory.samples, memory.distilled.classes)


def test_accuracy_among_the_seen_classes_ignores_all_other_outputs() -> None:
    """By hand: the largest output is of an unseen class in the first two rows."""
    logits = torch.tensor([[1.0, 9.0, 0.0], [0.0, 9.0, 1.0], [0.0, -1.0, 2.0], [3.0, 0.0, 1.0]])
    labels, seen = torch.tensor([0, 0, 2, 0]), torch.tensor([True, False, True])

    assert 0.75 == seen_accuracy(logits, labels, seen)


def test_feature_labels_found_beside_class_labels_are_left_out_aloud() -> None:
    """Where classes come in steps; named ones are refused."""
    events: list[Event] = []

    assert usable_beside("feature", "soft", ["softce"], {}, events.append, incremental=True) is None
    assert "feature labels are left out: their net knew classes to come" == events[0].message


def test_named_groups_of_nets_are_taken_apart() -> None:
    """In the place of their name, each net once."""
    plan = SimpleNamespace(
        dataset=SimpleNamespace(info=SimpleNamespace(height=32)), config=EvaluateConfig(data="x", arch=("mlp", "pad-8"))
    )
    archs = Plan.archs.func(plan)

    assert "mlp" == archs[0].partition("-")[0]
    assert 8 == len(archs) == len(set(archs))
