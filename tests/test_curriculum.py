"""FIEX and the static filter against the published table, loops written here, and the defects of the reference."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddlabel.curriculum import PRESETS, Fiex, choose, filtered, parse_filter, preset
from ddlabel.difficulty import order
from ddlabel.errors import DataError, UsageError

PAPER = preset("pad", classes=10, side=32)


def orders_of(*sizes: int, seed: int = 0) -> list[torch.Tensor]:
    """Classes of these sizes, mixed, with random scores."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=source)]
    return order(torch.rand(len(labels), generator=source), labels, len(sizes))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (5000, {0: 3750, 1: 3812, 10: 4375, 20: 5000, 21: 5000, 40: 5000, 41: 4500, 61: 4500, 99: 4500}),
        (500, {0: 375, 1: 381, 10: 437, 20: 500, 40: 500, 41: 450, 99: 450}),
        (7, {0: 5, 1: 5, 10: 6, 20: 7, 40: 7, 41: 7, 99: 7}),
    ],
    ids=["CIFAR-10", "CIFAR-100", "a tiny class"],
)
def test_an_epoch_sees_the_published_share_of_each_class(count: int, expected: dict[int, int]) -> None:
    """Spec table: 3750 of 5000 at first, all from epoch 20 to 40, 4500 after; the same shares of any class."""
    for epoch, images in expected.items():
        assert len(PAPER.subset(epoch, orders_of(count))) == images


def test_the_easy_end_comes_first_and_goes_first() -> None:
    """Early epochs lack the hardest, late ones the easiest, of every class by its own size."""
    orders = orders_of(20, 40)
    early, late = set(PAPER.subset(0, orders).tolist()), set(PAPER.subset(41, orders).tolist())

    for members, kept, dropped in zip(orders, (15, 30), (2, 4), strict=True):
        assert early & set(members.tolist()) == set(members[:kept].tolist())
        assert late & set(members.tolist()) == set(members[dropped:].tolist())


def test_a_full_epoch_is_the_training_split_in_its_order() -> None:
    """Indices ascend, so an epoch of everything draws the batches of a run without curriculum."""
    assert PAPER.subset(30, orders_of(5, 9, 3)).tolist() == list(range(17))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    ir=st.floats(0, 1),
    aee=st.integers(0, 30),
    r1=st.floats(0, 0.99),
    r2=st.floats(0, 0.99),
)
def test_no_class_is_ever_empty_and_growth_is_monotone(
    sizes: list[int], ir: float, aee: int, r1: float, r2: float
) -> None:
    """Up to AEE each epoch contains the one before; at AEE it is everything; every class keeps an image."""
    curriculum = Fiex(ir=ir, aee=aee, r1_epoch=32, r1=r1, r2_epoch=34, r2=r2)
    orders = orders_of(*sizes)
    before: set[int] = set()
    for epoch in range(37):
        seen = set(curriculum.subset(epoch, orders).tolist())
        assert all(seen & set(members.tolist()) for members in orders)
        assert epoch > aee or before <= seen
        before = seen
        if aee <= epoch <= 32:
            assert len(seen) == sum(sizes)


def test_the_class_size_of_the_reference_is_not_ours() -> None:
    """The reference takes 5000 per class: of 500 it would drop no hard image at first, and all 500 in the end."""
    orders = orders_of(500)

    assert len(PAPER.subset(0, orders)) < 500
    assert len(PAPER.subset(41, orders)) > 0


@pytest.mark.parametrize("percent", range(1, 100))
def test_shares_are_floored_as_exact_products(percent: int) -> None:
    """0.29 * 100 is 28.999... in floats and 29 here."""
    expected = math.floor(Fraction(percent, 100) * 100)

    assert Fiex(ir=percent / 100).span(0, 100) == (0, expected)
    assert Fiex(r1=percent / 100, r2=percent / 100).span(50, 100) == (expected, 100)


def test_removal_steps_at_r1_and_at_r2() -> None:
    """The scripts' CIFAR settings: a tenth after 40, a fifth after 60, in one jump each."""
    scripts = preset("pad-code", classes=100, side=32)

    assert [scripts.span(epoch, 500)[0] for epoch in (30, 40, 41, 60, 61)] == [0, 0, 50, 50, 100]


@pytest.mark.parametrize(
    ("name", "classes", "side", "values"),
    [
        ("pad", 10, 32, (0.75, 20, 40, 0.1, 60, 0.1)),
        ("pad", 100, 32, (0.75, 40, 40, 0.1, 60, 0.1)),
        ("pad", 200, 64, (0.75, 40, 60, 0.1, 60, 0.1)),
        ("pad-code", 10, 32, (0.75, 20, 40, 0.1, 60, 0.2)),
        ("pad-code", 100, 32, (0.75, 30, 40, 0.1, 60, 0.2)),
        ("pad-code", 200, 64, (0.75, 40, 60, 0.1, 60, 0.1)),
    ],
)
def test_presets_are_the_published_tables(name: str, classes: int, side: int, values: tuple[float, ...]) -> None:
    """IR, AEE, R1, r1, R2, r2 of the paper and of the scripts."""
    made = preset(name, classes=classes, side=side)

    assert (made.ir, made.aee, made.r1_epoch, made.r1, made.r2_epoch, made.r2) == values


def test_settings_replace_values_of_a_preset() -> None:
    """Texts as on the command line; a later R1 carries R2 with it."""
    made = choose("pad", {"aee": "5", "r1_epoch": "70"}, classes=10, side=32)

    assert (made.aee, made.r1_epoch, made.r2_epoch, made.ir) == (5, 70, 70, 0.75)


@pytest.mark.parametrize(
    ("name", "given_values", "message"),
    [
        ("pda", {}, "unknown curriculum 'pda'; did you mean 'pad'"),
        ("pad", {"aea": "5"}, "unknown option 'aea'; did you mean 'aee'"),
        ("pad", {"ir": "1.5"}, "'ir' is 1.5, expected a number >= 0 and <= 1"),
        ("pad", {"r1": "1"}, "'r1' is 1.0, expected a number >= 0 and < 1"),
        ("pad", {"r2_epoch": "30"}, "'r2_epoch' is 30, expected at least r1_epoch, 40"),
    ],
    ids=["preset", "option", "share above one", "everything removed", "R2 before R1"],
)
def test_impossible_curricula_are_refused(name: str, given_values: dict[str, str], message: str) -> None:
    """Exit 2, saying what was expected."""
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        choose(name, given_values, classes=10, side=32)


def test_a_run_too_short_for_its_curriculum_is_told() -> None:
    """Epochs are absolute: a short run never sees the hardest images, or never removes the easiest."""
    assert "never seen" in PAPER.notes(20)[0]
    assert ["none are removed" in note for note in PAPER.notes(21)] == [True]
    assert PAPER.notes(42) == ()
    assert Fiex(ir=1, r1=0, r2=0).notes(1) == ()


def test_images_seen_counts_every_epoch() -> None:
    """The cost of a run is the sum of its subsets."""
    orders = orders_of(11, 30)

    assert PAPER.images_seen(45, orders) == sum(len(PAPER.subset(epoch, orders)) for epoch in range(45))


@pytest.mark.parametrize(("text", "expected"), [("hard:0.2", ("hard", 0.2)), ("easy:.1", ("easy", 0.1))])
def test_a_filter_names_side_and_ratio(text: str, expected: tuple[str, float]) -> None:
    """As in PAD's tables."""
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", ["", "hard", "0.2", "heard:0.2", "hard:", "hard:1", "hard:-0.1", "hard:nan", "easy:x"])
def test_other_filters_are_refused(text: str) -> None:
    """Exit 2, with an example."""
    with pytest.raises(UsageError, match=r"such as"):
        parse_filter(text)


@pytest.mark.parametrize("side", ["hard", "easy"])
def test_a_filter_drops_a_floored_share_of_each_class(side: str) -> None:
    """Against a loop: the hardest or easiest floor(r * n_c), indices ascending."""
    labels = torch.tensor([0] * 10 + [1] * 7)
    scores = torch.rand(17, generator=torch.Generator().manual_seed(1))
    kept = filtered(labels, scores, side, 0.3, classes=("a", "b")).tolist()
    expected = []
    for label, dropped in ((0, 3), (1, 2)):
        ranked = sorted((i for i in range(17) if labels[i] == label), key=lambda i: float(scores[i]))
        expected += ranked[:-dropped] if side == "hard" else ranked[dropped:]

    assert kept == sorted(expected)


def test_a_filter_leaves_one_image_and_takes_ties_by_index() -> None:
    """Equal scores: the lower index counts as easier."""
    labels = torch.tensor([0, 0, 0, 0, 1])

    assert filtered(labels, torch.zeros(5), "hard", 0.5, classes=("a", "b")).tolist() == [0, 1, 4]
    assert filtered(labels, torch.zeros(5), "easy", 0.99, classes=("a", "b")).tolist() == [3, 4]
    assert filtered(labels, torch.zeros(5), "easy", 0, classes=("a", "b")).tolist() == [0, 1, 2, 3, 4]


def test_a_filter_that_leaves_too_few_images_is_refused() -> None:
    """Naming the class, what is left and the budget."""
    with pytest.raises(DataError, match=r"class 'b' has 4 training images, 3 are left by the filter, --ipc asks for 4"):
        filtered(torch.tensor([0] * 8 + [1] * 4), torch.arange(12.0), "hard", 0.25, classes=("a", "b"), ipc=4)


def test_every_preset_has_a_name_that_choose_knows() -> None:
    """What the help lists can be typed."""
    assert all(choose(name, {}, classes=2, side=8) == preset(name, classes=2, side=8) for name in PRESETS)
