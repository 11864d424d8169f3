"""Difficulty scores against closed forms, numpy written here, and gradients by autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from ddlabel import difficulty
from ddlabel.difficulty import SCORES, canonical_score, forgetting, order, unknown_score
from ddlabel.errors import DataError

N, K, F = 23, 5, 7


def sample() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels and features of no particular net."""
    source = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(N, K, generator=source)
    return logits, torch.randint(K, (N,), generator=source), torch.randn(N, F, generator=source)


def softmax(logits: torch.Tensor) -> np.ndarray:
    values = np.exp(logits.numpy().astype(np.float64))
    return values / values.sum(axis=1, keepdims=True)


def by_numpy(name: str) -> np.ndarray:
    logits, labels, features = sample()
    p, y = softmax(logits), np.eye(K)[labels.numpy()]
    ranked = np.sort(p, axis=1)[:, ::-1]
    el2n = np.sqrt(((p - y) ** 2).sum(axis=1))
    return {
        "el2n": el2n,
        "grand": el2n * np.sqrt(1 + (features.numpy().astype(np.float64) ** 2).sum(axis=1)),
        "loss": -np.log((p * y).sum(axis=1)),
        "entropy": -(p * np.log(p)).sum(axis=1),
        "margin": 1 - ranked[:, 0] + ranked[:, 1],
        "confidence": 1 - ranked[:, 0],
    }[name]


@pytest.mark.parametrize("name", sorted(SCORES))
def test_a_score_equals_its_formula_in_numpy(name: str) -> None:
    """One float64 number per image."""
    scores = SCORES[name](*sample())

    assert (scores.dtype, tuple(scores.shape)) == (torch.float64, (N,))
    np.testing.assert_allclose(scores.numpy(), by_numpy(name), rtol=1e-10, atol=1e-12)


def test_the_margin_of_a_single_class_is_whole() -> None:
    """Its probability is 1, the second one 0: the easiest there is."""
    assert difficulty.margin(torch.tensor([[3.0], [-7.0]])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_el2n_of_a_uniform_and_of_a_perfect_predictor(classes: int) -> None:
    """sqrt(1 - 1/C), and 0."""
    labels = torch.arange(classes)
    uniform = difficulty.el2n(torch.zeros(classes, classes), labels)
    perfect = difficulty.el2n(1000 * torch.eye(classes), labels)

    torch.testing.assert_close(uniform, torch.full((classes,), math.sqrt(1 - 1 / classes)).double(), rtol=0, atol=1e-7)
    assert perfect.tolist() == [0.0] * classes


def test_el2n_by_hand() -> None:
    """p = (.7, .2, .1), y = 0: sqrt(.09 + .04 + .01)."""
    value = difficulty.el2n(torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log(), torch.tensor([0]))

    assert float(value) == pytest.approx(math.sqrt(0.14), abs=1e-12)


def test_grand_is_the_gradient_of_the_last_layer() -> None:
    """Norm of the gradient with respect to weight and bias, image by image, by autograd."""
    _, labels, features = sample()
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(K, F, generator=source, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(K, generator=source, dtype=torch.float64, requires_grad=True)
    logits = features.double() @ weight.T + bias
    expected = []
    for index in range(N):
        loss = functional.cross_entropy(logits[index : index + 1], labels[index : index + 1])
        parts = torch.autograd.grad(loss, (weight, bias), retain_graph=True)
        expected.append(math.sqrt(sum(float(part.square().sum()) for part in parts)))

    scores = difficulty.grand(logits.detach(), labels, features)

    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["entropy", "margin", "confidence"])
def test_scores_without_labels_do_not_read_them(name: str) -> None:
    """They fall as the net gets surer, and do not change when all logits move together."""
    _, labels, features = sample()
    ramp = torch.arange(1.0, N + 1)[:, None] * torch.tensor([1.0, 0.2, 0.0, 0.0, 0.0])
    scores = SCORES[name](ramp, labels, features)

    assert scores.sort(descending=True).indices.tolist() == list(range(N))
    torch.testing.assert_close(scores, SCORES[name](ramp + 50, labels.flip(0), features), rtol=1e-5, atol=1e-6)


def test_scores_of_a_certain_net_are_finite() -> None:
    """Probabilities of 0: -log p is cut at 1e-12, half precision logits are taken."""
    logits = torch.tensor([[60000.0, -60000.0], [-60000.0, 60000.0]], dtype=torch.float16)
    labels = torch.tensor([0, 0])

    assert SCORES["loss"](logits, labels, logits).tolist() == pytest.approx([0, -math.log(1e-12)])
    assert SCORES["entropy"](logits, labels, logits).tolist() == pytest.approx([0, 0], abs=1e-9)


def test_forgetting_counts_right_then_wrong() -> None:
    """A scripted table of epochs by images; never learned is hardest, always right is easiest."""
    table = ["11110", "10110", "01010", "10110", "01110"]
    correct = torch.tensor([[letter == "1" for letter in row] for row in table])

    assert forgetting(correct).tolist() == [2, 2, 1, 0, 6]


def test_forgetting_of_one_epoch_tells_learned_from_not() -> None:
    """No transition can be seen yet."""
    assert forgetting(torch.tensor([[True, False]])).tolist() == [0, 2]


def test_order_is_a_permutation_by_class_easiest_first() -> None:
    """Ragged classes, each ascending in score and, among equals, in index."""
    labels = torch.tensor([2, 0, 1, 0, 2, 2, 0, 2])
    scores = torch.tensor([0.5, 0.1, 9.0, 0.1, 0.5, -1.0, 0.0, 0.25])

    assert [members.tolist() for members in order(scores, labels, 4)] == [[6, 1, 3], [2], [5, 7, 0, 4], []]


def test_order_of_many_equal_scores_is_the_order_of_the_images() -> None:
    """A stable sort, at sizes where an unstable one would show."""
    labels = torch.arange(5000) % 2
    (first, second) = order(torch.zeros(5000), labels, 2)

    assert torch.equal(first, torch.arange(0, 5000, 2))
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(5000))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    """Naming the image."""
    with pytest.raises(DataError, match=r"score of image 1 is -?(nan|inf), expected finite"):
        order(torch.tensor([0.0, bad]), torch.tensor([0, 0]), 1)


def test_names_and_near_misses() -> None:
    """An alias is resolved, anything else is no score, and a near miss is suggested."""
    assert [canonical_score(name) for name in ("el2n", "uncertainty", "forgetting", "el2m")] == [
        "el2n",
        "entropy",
        "forgetting",
        None,
    ]
    assert "did you mean 'el2n'?" in str(unknown_score("el2m"))


def test_agreement_is_spearmans_by_class() -> None:
    """Against the classical formula 1 - 6 sum d^2 / (n (n^2 - 1)) on ranks without ties, mean of the classes."""
    source = torch.Generator().manual_seed(5)
    labels = torch.arange(21) % 2
    left, right = (torch.randperm(21, generator=source).double() for _ in range(2))
    expected = []
    for label in range(2):
        a, b = (np.argsort(np.argsort(scores[labels == label].numpy())) for scores in (left, right))
        expected.append(1 - 6 * float(((a - b) ** 2).sum()) / (len(a) * (len(a) ** 2 - 1)))

    assert difficulty.agreement(left, right, labels, 2) == pytest.approx(sum(expected) / 2)


def test_agreement_takes_mean_ranks_of_equal_scores_and_skips_what_does_not_vary() -> None:
    """Two tied pairs against ranks 1 to 4: 4 / sqrt(20) by hand; a constant class says nothing."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    tied, plain = torch.tensor([1.0, 1, 2, 2, 5, 5]), torch.tensor([1.0, 2, 3, 4, 5, 6])

    assert difficulty.agreement(tied, plain, labels, 3) == pytest.approx(4 / math.sqrt(4 * 5))
    assert difficulty.agreement(tied, plain, labels, 2) == difficulty.agreement(plain, tied, labels, 2)
    assert difficulty.agreement(torch.zeros(6), plain, labels, 2) is None
