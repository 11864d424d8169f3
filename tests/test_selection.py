"""Selection against slow independent versions (loops, enumeration) and against closed forms for ties.

`slow_herding` and `slow_k_center` are the definitions, written with Python loops over candidates; `slow_craig` and
`slow_glister` are theirs in float64 numpy, on gradients written out as vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddlabel.errors import DataError, UsageError
from ddlabel.gradients import HeadGradients, head_gradients
from ddlabel.seeding import generator
from ddlabel.selection import (
    by_score,
    check_budget,
    craig,
    glister,
    herding,
    k_center,
    random_order,
    select_random,
    ties_cut,
)


def features(count: int, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=generator(seed, "features")) + 3


def slow_herding(points: Tensor, count: int, *, far: bool = False) -> list[int]:
    points = points.double()
    mean = sum(points) / len(points)
    chosen: list[int] = []
    for step in range(1, count + 1):
        rest = [index for index in range(len(points)) if index not in chosen]
        taken = sum((points[index] for index in chosen), torch.zeros_like(mean))
        distances = [float((step * mean - taken - points[index]).norm()) for index in rest]
        chosen.append(rest[distances.index(max(distances) if far else min(distances))])
    return chosen


def slow_k_center(points: Tensor, count: int, first: int) -> list[int]:
    chosen = [first]
    while len(chosen) < count:
        rest = [index for index in range(len(points)) if index not in chosen]
        distances = [min(float((points[i] - points[j]).norm()) for j in chosen) for i in rest]
        chosen.append(rest[distances.index(max(distances))])
    return chosen


def covering_radius(points: Tensor, chosen: list[int]) -> float:
    return float(torch.cdist(points.double(), points[chosen].double()).min(dim=1).values.max())


def mean_error(points: Tensor, chosen: list[int]) -> float:
    return float((points[chosen].mean(dim=0) - points.mean(dim=0)).norm())


class TestRandom:
    """`select_random`: the baseline of every table."""

    labels = torch.tensor([1, 0, 2, 1, 1, 0, 2, 2, 0, 1])

    def test_takes_the_asked_number_of_each_class_in_class_order(self) -> None:
        """Counts are per class, items unique, classes ascending."""
        chosen = select_random(self.labels, torch.tensor([2, 4, 1]), generator(0, "a"))

        assert self.labels[chosen].tolist() == [0, 0, 1, 1, 1, 1, 2]
        assert len(set(chosen.tolist())) == 7

    def test_smaller_budgets_are_prefixes(self) -> None:
        """The draw for one image per class begins the draw for three."""
        three = select_random(self.labels, torch.tensor([3, 3, 3]), generator(0, "a")).reshape(3, 3)
        one = select_random(self.labels, torch.tensor([1, 1, 1]), generator(0, "a"))

        assert three[:, 0].tolist() == one.tolist()

    def test_another_stream_draws_another_set(self) -> None:
        """The generator alone decides."""
        labels = torch.zeros(100, dtype=torch.int64)
        first, again, other = (select_random(labels, torch.tensor([5]), generator(0, name)) for name in "aab")

        assert first.tolist() == again.tolist()
        assert first.tolist() != other.tolist()

    def test_every_candidate_is_equally_likely(self) -> None:
        """Over 2000 draws of 1 in 4, each is taken about 500 times (five sigma: 97)."""
        source = generator(0, "uniform")
        draws = torch.cat([select_random(torch.zeros(4), torch.tensor([1]), source) for _ in range(2000)])

        assert bool(((torch.bincount(draws, minlength=4) - 500).abs() < 97).all())

    def test_a_class_that_is_too_small_is_refused(self) -> None:
        """No silently smaller baseline."""
        with pytest.raises(DataError, match=r"class 2 has 3 training images, 4 were asked for"):
            select_random(self.labels, torch.tensor([1, 1, 4]), generator(0, "a"))

    def test_an_order_is_a_permutation(self) -> None:
        """`random_order` loses nobody."""
        assert list(range(50)) == sorted(random_order(50, generator(0, "a")).tolist())


class TestBudget:
    """`check_budget`: fault 73."""

    @pytest.mark.parametrize("ipc", [0, -1], ids=["fault 73: ipc is 0", "fault 73: ipc is negative"])
    @pytest.mark.fault(73)
    def test_a_budget_below_one_image_is_a_usage_error(self, ipc: int) -> None:
        """Exit code 2."""
        with pytest.raises(UsageError, match=f"option 'ipc' is {ipc}, expected at least 1"):
            check_budget(torch.tensor([0, 1]), ["cat", "dog"], ipc)

    @pytest.mark.fault(73)
    def test_fault_73_a_class_with_fewer_images_than_ipc_is_named(self) -> None:
        """Exit code 4, with the class, what it has and what was asked."""
        with pytest.raises(DataError, match=r"class 'dog' has 1 training images, --ipc asks for 2"):
            check_budget(torch.tensor([0, 0, 0, 1]), ["cat", "dog"], 2)

    @pytest.mark.fault(73)
    def test_fault_73_a_class_without_images_is_named(self) -> None:
        """A class at the end of the list without any image is not overlooked."""
        with pytest.raises(DataError, match=r"class 'elk' has 0 training images"):
            check_budget(torch.tensor([0, 1]), ["cat", "dog", "elk"], 1)

    def test_a_budget_of_the_smallest_class_is_accepted(self) -> None:
        """As many images as the smallest class has is not too many."""
        check_budget(torch.tensor([0, 0, 0, 1, 1]), ["cat", "dog"], 2)


def head_of(points: Tensor) -> HeadGradients:
    """Gradients of a fixed linear net of 3 classes on features; classes by their first feature."""
    points = points.double()
    weights = torch.randn(points.shape[1], 3, generator=generator(0, "head"), dtype=torch.float64)
    labels = (points[:, 0] * 7).round().long().abs() % 3
    return head_gradients(points @ weights / 10, labels, points)


def by_craig(points: Tensor, count: int) -> Tensor:
    return craig(head_of(points), count)[0]


def by_glister(points: Tensor, count: int) -> Tensor:
    return glister(head_of(points), count, update_every=1, lr=0.1)


def by_glister_once(points: Tensor, count: int) -> Tensor:
    return glister(head_of(points), count, update_every=0, lr=0.1)


def far_herding(points: Tensor, count: int) -> Tensor:
    return herding(points, count, far=True)


GREEDY = [herding, far_herding, k_center, by_craig, by_glister, by_glister_once]


@pytest.mark.parametrize("choose", GREEDY, ids=lambda choose: choose.__name__)
class TestGreedyMethods:
    """What the specification promises of every greedy selection."""

    def test_unique_positions_in_range(self, choose: object) -> None:
        """No candidate twice."""
        chosen = choose(features(40), 12).tolist()  # type: ignore[operator]

        assert len(set(chosen)) == 12
        assert set(chosen) <= set(range(40))

    def test_the_whole_class_can_be_chosen(self, choose: object) -> None:
        """A budget of all candidates returns them all, duplicates included."""
        points = torch.cat([features(6), features(6)])

        assert list(range(12)) == sorted(choose(points, 12).tolist())  # type: ignore[operator]

    def test_smaller_budgets_are_prefixes(self, choose: object) -> None:
        """The first j of ten are the choice for budget j."""
        ten = choose(features(30), 10).tolist()  # type: ignore[operator]

        assert [ten[:count] for count in range(1, 11)] == [
            choose(features(30), count).tolist()  # type: ignore[operator]
            for count in range(1, 11)
        ]

    @pytest.mark.parametrize("count", [1, 7, 200])
    def test_ties_take_the_lowest_index(self, choose: object, count: int) -> None:
        """Constant features give 0, 1, 2, ..., whatever the rounding of sums."""
        points = features(1, 129).expand(200, 129)

        assert list(range(count)) == choose(points, count).tolist()  # type: ignore[operator]

    def test_differences_of_rounding_size_are_ties(self, choose: object) -> None:
        """Another library or thread count may move a sum by its last bit: that must not decide."""
        noise = torch.randn(50, 9, generator=generator(0, "rounding"), dtype=torch.float64)
        points = features(1, 9).double() * (1 + 1e-16 * noise.round() * 2)

        assert len(points.unique(dim=0)) > 1
        assert list(range(20)) == choose(points, 20).tolist()  # type: ignore[operator]

    def test_reordering_the_data_relabels_the_choice(self, choose: object) -> None:
        """Without ties, the same images are chosen in the same order."""
        points, order = features(50), random_order(50, generator(1, "order"))

        assert choose(points, 9).tolist() == order[choose(points[order], 9)].tolist()  # type: ignore[operator]

    def test_half_precision_features_are_accepted(self, choose: object) -> None:
        """float16 features decide like their exact values."""
        half = features(30).half()

        assert choose(half.double(), 8).tolist() == choose(half, 8).tolist()  # type: ignore[operator]

    def test_the_number_of_threads_changes_nothing(self, choose: object) -> None:
        """One and two threads choose the same."""
        points, before = features(800, 64), torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(choose(points, 20).tolist())  # type: ignore[operator]
        finally:
            torch.set_num_threads(before)

        assert results[0] == results[1]


class TestHerding:
    """The mean of the choice follows the mean of the class."""

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_the_definition_by_brute_force(self, seed: int) -> None:
        """30 candidates, every budget up to all of them."""
        points = features(30, seed=seed)

        assert slow_herding(points, 30) == herding(points, 30).tolist()

    def test_first_choice_is_nearest_to_the_mean(self) -> None:
        """By hand: the mean of 0, 1, 2, 9 is 3, so 2 comes first; then the sum 6 wants 4 more, and 1 is off by 3."""
        points = torch.tensor([[0.0], [1.0], [2.0], [9.0]])

        assert herding(points, 2).tolist() == [2, 1]

    def test_the_mean_of_ten_is_better_than_random_and_far_better_than_the_far_variant(self) -> None:
        """Against the average of 50 random draws, and against DeepCore's choice of the farthest."""
        points = features(200)
        source = generator(0, "draws")
        random = [mean_error(points, random_order(200, source)[:10].tolist()) for _ in range(50)]
        near, far = (
            mean_error(points, herding(points, 10).tolist()),
            mean_error(points, slow_herding(points, 10, far=True)),
        )

        assert near < sum(random) / 50 < far


class TestKCenter:
    """Each choice is the candidate farthest from those before."""

    @pytest.mark.parametrize("start", [0, 7])
    def test_equals_the_definition_with_all_pairwise_distances(self, start: int) -> None:
        """30 candidates, from a given start."""
        points = features(30)

        assert slow_k_center(points.double(), 15, start) == k_center(points, 15, start=start).tolist()

    def test_starts_at_the_medoid(self) -> None:
        """The first choice is the candidate nearest to the mean."""
        points = features(30)
        medoid = int((points - points.mean(dim=0)).norm(dim=1).argmin())

        assert slow_k_center(points.double(), 10, medoid) == k_center(points, 10).tolist()

    @pytest.mark.parametrize("seed", range(5))
    def test_covering_radius_is_at_most_twice_the_best(self, seed: int) -> None:
        """All 120 triples of 10 points are tried."""
        points = features(10, 2, seed)
        best = min(covering_radius(points, list(triple)) for triple in itertools.combinations(range(10), 3))

        assert covering_radius(points, k_center(points, 3).tolist()) <= 2 * best

    def test_duplicates_come_last(self) -> None:
        """A copy of a chosen image covers nothing new."""
        points = torch.cat([features(8), features(8)])

        assert len({index % 8 for index in k_center(points, 8).tolist()}) == 8


def written_out(gradients: HeadGradients) -> np.ndarray:
    """(m, k * (1 + f)) float64: every gradient as a vector."""
    outer = gradients.errors.numpy()[:, :, None] * gradients.inputs.numpy()[:, None, :]
    return outer.reshape(len(outer), -1)


def similarities(gradients: HeadGradients) -> np.ndarray:
    g = written_out(gradients)
    distances = np.sqrt(((g[:, None] - g[None]) ** 2).sum(axis=2))
    return distances.max() + 1e-3 - distances


def slow_craig(gradients: HeadGradients, count: int) -> tuple[list[int], list[int]]:
    s, chosen = similarities(gradients), []
    covered = np.zeros(len(s))
    for _step in range(count):
        gains = np.maximum(s - covered[:, None], 0).sum(axis=0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, s[:, chosen[-1]])
    return chosen, np.bincount(s[:, chosen].argmax(axis=1), minlength=count).tolist()


def slow_glister(gradients: HeadGradients, count: int, every: int, lr: float) -> list[int]:
    g, z, x = written_out(gradients), gradients.logits.numpy(), gradients.inputs.numpy()
    truth = np.eye(z.shape[1])[gradients.labels.numpy()]
    mean, chosen = g.mean(axis=0), []
    for step in range(count):
        if every and step and step % every == 0:
            moved = z - lr * x @ g[chosen].mean(axis=0).reshape(z.shape[1], -1).T
            p = np.exp(moved) / np.exp(moved).sum(axis=1, keepdims=True)
            mean = ((p - truth)[:, :, None] * x[:, None, :]).reshape(len(z), -1).mean(axis=0)
        gains = g @ mean
        gains[chosen] = -np.inf
        chosen.append(int(gains.argmax()))
    return chosen


class TestCraig:
    """Facility location on last-layer gradients."""

    @pytest.mark.parametrize("seed", range(4))
    def test_lazy_equals_naive_with_all_similarities(self, seed: int) -> None:
        """40 candidates, every budget up to all of them, and the weights of some."""
        gradients = head_of(features(40, seed=seed))
        chosen, _ = slow_craig(gradients, 40)

        assert chosen == craig(gradients, 40)[0].tolist()
        for count in (1, 5, 40):
            assert slow_craig(gradients, count)[1] == craig(gradients, count)[1].tolist()

    @pytest.mark.parametrize("count", [1, 3, 30])
    def test_the_weights_are_a_partition_of_the_class(self, count: int) -> None:
        """DeepCore's sum to m + count."""
        weights = craig(head_of(features(30)), count)[1]

        assert weights.dtype == torch.float32
        assert float(weights.sum()) == 30
        assert bool((weights >= 1).all())

    def test_every_choice_covers_more_and_gains_do_not_grow(self) -> None:
        """Facility location is monotone and submodular."""
        gradients = head_of(features(50))
        s, chosen = similarities(gradients), craig(gradients, 20)[0].tolist()
        values = [s[:, chosen[:count]].max(axis=1).sum() for count in range(1, 21)]
        gains = np.diff(values)

        assert bool((gains > 0).all())
        assert bool((np.diff(gains) <= 1e-9).all())

    def test_duplicates_come_last_and_stand_for_nobody(self) -> None:
        """A copy of a chosen image covers nothing new."""
        points = torch.cat([features(8), features(8)])
        chosen, weights = craig(head_of(points), 16)

        assert len({index % 8 for index in chosen[:8].tolist()}) == 8
        assert weights.tolist() == [2.0] * 8 + [0.0] * 8

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One column of distances at a time."""
        points = features(60)
        whole = craig(head_of(points), 25)
        monkeypatch.setattr("ddlabel.selection.BLOCK_BYTES", 1)
        single = craig(head_of(points), 25)

        assert whole[0].tolist() == single[0].tolist()
        assert whole[1].tolist() == single[1].tolist()

    def test_few_gains_are_computed_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lazy: 40 choices of 800 take fewer columns than six full passes, where naive greedy takes 40."""
        columns: list[int] = []
        plain = HeadGradients.distances
        monkeypatch.setattr(
            HeadGradients, "distances", lambda own, chosen: columns.append(len(chosen)) or plain(own, chosen)
        )
        craig(head_of(features(800)), 40)

        assert 800 <= sum(columns) < 6 * 800


class TestGlister:
    """Largest inner product with the gradient of the class."""

    @pytest.mark.parametrize("every", [0, 1, 3])
    @pytest.mark.parametrize("lr", [0.1, 5.0])
    def test_equals_the_definition_on_written_out_gradients(self, every: int, lr: float) -> None:
        """30 candidates, with and without simulated steps."""
        gradients = head_of(features(30))

        assert slow_glister(gradients, 30, every, lr) == glister(gradients, 30, update_every=every, lr=lr).tolist()

    def test_without_updates_it_is_a_sort_by_inner_product(self) -> None:
        """What DeepCore's version does."""
        gradients = head_of(features(30))
        g = written_out(gradients)
        expected = np.argsort(-(g @ g.mean(axis=0)), kind="stable")[:9]

        assert expected.tolist() == glister(gradients, 9, update_every=0, lr=0.1).tolist()

    def test_the_simulated_step_matters(self) -> None:
        """A large one changes the choice."""
        gradients = head_of(features(30))
        with_steps, without = (glister(gradients, 9, update_every=every, lr=5.0).tolist() for every in (1, 0))

        assert with_steps != without


class TestByScore:
    """Orders by difficulty."""

    scores = torch.tensor([0.3, 0.9, 0.1, 0.9, 0.5, 0.3])

    @pytest.mark.parametrize(
        ("pick", "expected"),
        [("hard", [1, 3, 4, 0, 5, 2]), ("easy", [2, 0, 5, 4, 1, 3]), ("middle", [0, 4, 5, 2, 1, 3])],
    )
    def test_by_hand(self, pick: str, expected: list[int]) -> None:
        """The median is 0.4; equal scores, and equal distances to the median, come in their order."""
        values = (self.scores * 10).round()

        assert expected == by_score(values, 6, pick).tolist()
        assert expected[:2] == by_score(values, 2, pick).tolist()

    @pytest.mark.parametrize("pick", ["hard", "easy", "middle"])
    def test_constant_scores_take_the_lowest_indices(self, pick: str) -> None:
        """0, 1, 2, ..."""
        assert by_score(torch.full((20,), 0.7), 5, pick).tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("pick", ["hard", "easy", "middle"])
    def test_reordering_the_data_relabels_the_choice(self, pick: str) -> None:
        """Without ties."""
        scores, moved = features(31, 1)[:, 0], random_order(31, generator(1, "order"))

        assert by_score(scores, 9, pick).tolist() == moved[by_score(scores[moved], 9, pick)].tolist()

    @pytest.mark.parametrize("pick", ["hard", "easy", "middle"])
    def test_equals_a_sort_of_keys_in_numpy(self, pick: str) -> None:
        """Lexicographic: first score, second score, index."""
        first, second = (torch.randint(4, (40,), generator=generator(0, name)).float() for name in "ab")

        def key(values: Tensor) -> np.ndarray:
            array = values.numpy().astype(np.float64)
            return {"hard": -array, "easy": array, "middle": np.abs(array - np.median(array))}[pick]

        expected = np.lexsort((np.arange(40), key(second), key(first)))

        assert expected.tolist() == by_score(first, 40, pick, ties=second).tolist()

    def test_half_precision_orders_like_its_exact_values(self) -> None:
        """No comparison is made in float16."""
        half = features(50, 1)[:, 0].half()

        assert by_score(half, 20, "middle").tolist() == by_score(half.double(), 20, "middle").tolist()

    def test_ties_that_are_cut_are_counted(self) -> None:
        """Of four images with score 2 one is chosen: three could have been it."""
        scores = torch.tensor([2.0, 3.0, 2.0, 1.0, 2.0, 2.0])

        assert ties_cut(scores, by_score(scores, 2, "hard"), "hard") == 3
        assert ties_cut(scores, by_score(scores, 5, "hard"), "hard") == 0
        assert ties_cut(scores, by_score(scores, 1, "easy"), "easy") == 0


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that an operation made."""

    bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        made = operation(*arguments, **(keywords or {}))
        for item in made if isinstance(made, tuple | list) else [made]:
            if isinstance(item, Tensor):
                self.bytes = max(self.bytes, item.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize(
    ("choose", "images", "count", "most"),
    [(herding, 20_000, 5, 11), (k_center, 20_000, 5, 11), (by_glister, 20_000, 3, 11), (by_craig, 4000, 2, 17)],
    ids=["herding", "k-center", "glister", "craig"],
)
def test_memory_does_not_grow_with_the_square_of_a_class(
    choose: Callable[[Tensor, int], Tensor], images: int, count: int, most: int
) -> None:
    """All distances of 20,000 images would take 3.2 GB, of 4,000 128 MB; no tensor is above 11 or 17 MB."""
    points = features(images, 64)
    with LargestTensor() as largest:
        chosen = choose(points, count)

    assert len(set(chosen.tolist())) == count
    assert 0 < largest.bytes < most * 10**6
