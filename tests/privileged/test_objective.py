"""The privileged objective: Facts A to C, closed forms, slow loops, and gradients by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddlabel.errors import UsageError
from ddlabel.nets._net import Net, build
from ddlabel.privileged._form import Form
from ddlabel.privileged._objective import Norm, Objective, fit_norm, mmd, supcon
from ddlabel.seeding import generator

TERMS = {
    "mse": Objective(lambda_reg=2.0),
    "cosine": Objective(metric="cosine"),
    "mmd": Objective(metric="mmd"),
    "l2": Objective(norm="l2"),
    "zscore": Objective(norm="zscore"),
    "ce": Objective(lambda_reg=0.0, ce=0.1),
    "infonce": Objective(lambda_reg=0.0, infonce=0.1),
    "supcon": Objective(lambda_reg=0.0, supcon=0.1),
}


def draw(*shape: int, name: str = "values") -> Tensor:
    return torch.randn(shape, generator=generator(0, "test", name), dtype=torch.float64)


def batch() -> tuple[Tensor, Tensor, Tensor, Norm]:
    """Features, labels, classes and a norm: 4 labels of shape 3 x 2 x 2 in classes 0, 0, 1, 2."""
    labels = draw(4, 3, 2, 2, name="labels")
    return draw(4, 3, 2, 2), labels, torch.tensor([0, 0, 1, 2]), fit_norm(labels)


def tiny_net() -> Net:
    return build("convnet-d2-w4", channels=1, size=8, classes=3, generator=generator(0, "net")).double()


def form(shape: tuple[int, int, int], attention: str | None = None, pool: str = "avg") -> Form:
    return Form(arch="convnet-d2-w4-instance", layer=2, attention=attention, pool=pool, shape=shape)


def test_labels_average_before_the_loss_as_after_it() -> None:
    """Fact A: the mean loss over K labels is that of their mean plus their spread, so gradients are the same."""
    features, _labels, hard, _norm = batch()
    many = draw(5, *features.shape, name="many")
    mean = many.mean(0)
    objective = Objective(lambda_reg=1.0)
    features.requires_grad_()
    each = torch.stack([objective(features, labels, hard) for labels in many]).mean()
    once = objective(features, mean, hard)
    (slow,), (fast,) = torch.autograd.grad(each, features), torch.autograd.grad(once, features)

    assert each.item() == pytest.approx(once.item() + (many - mean).square().mean().item(), rel=1e-12)
    assert torch.allclose(slow, fast, rtol=1e-12, atol=0)


@pytest.mark.parametrize("attention", ["spatial", "channel"])
def test_average_pooling_commutes_with_the_mean_of_labels_and_maximum_does_not(attention: str) -> None:
    """Fact B."""
    many = draw(5, 4, 3, 2, 2)
    gaps = {
        pool: (form((3, 2, 2), attention, pool).reduce(many.mean(0))
               - torch.stack([form((3, 2, 2), attention, pool).reduce(one) for one in many]).mean(0)).abs().max().item()
        for pool in ("avg", "max")
    }  # fmt: skip

    assert gaps["avg"] < 1e-14
    assert gaps["max"] > 0.01


def test_the_head_has_no_gradient_from_the_regression() -> None:
    """Fact C."""
    net, images, hard = tiny_net(), draw(4, 1, 8, 8), torch.tensor([0, 0, 1, 2])
    maps, _logits = net.tap(images, 2)
    loss = Objective()(maps, draw(*maps.shape, name="labels"), hard)
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    missing = {
        name for (name, _value), gradient in zip(net.named_parameters(), gradients, strict=True) if gradient is None
    }

    assert missing == {name for name, _value in net.named_parameters() if name.startswith("classifier")} != set()


@pytest.mark.parametrize("name", ["mse", "cosine", "mmd", "l2", "zscore", "ce"])
def test_a_batch_repeated_loses_the_same(name: str) -> None:
    """Every reduction is a mean: the weight does not depend on the size of the batch."""
    features, labels, hard, norm = batch()
    once = TERMS[name](features, labels, hard, norm)
    twice = TERMS[name](features.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1, 1), hard.repeat(2), norm)

    assert twice.item() == pytest.approx(once.item(), rel=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_has_its_gradients_in_features_and_labels(name: str) -> None:
    """Against central differences, once and twice: labels are learned through unrolled students."""
    features, labels, hard, norm = batch()
    inputs = (features.requires_grad_(), labels.requires_grad_())

    def term(features: Tensor, labels: Tensor) -> Tensor:
        return TERMS[name](features, labels, hard, norm)

    assert torch.autograd.gradcheck(term, inputs)
    assert torch.autograd.gradgradcheck(term, inputs)
    assert all(gradient.abs().max() > 1e-4 for gradient in torch.autograd.grad(term(*inputs), inputs))


@pytest.mark.parametrize("name", TERMS)
def test_dead_features_and_single_images_have_finite_gradients(name: str) -> None:
    features, labels, hard, norm = batch()
    dead = torch.zeros_like(features[:1]).requires_grad_()
    loss = TERMS[name](dead, labels[:1], hard[:1], norm)
    (gradient,) = torch.autograd.grad(loss, dead)

    assert torch.isfinite(loss)
    assert gradient.abs().max() < 1e5


def test_values_by_hand() -> None:
    """Two images of one class, features along the axes, labels swapped in length only."""
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)[:, :, None, None]
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)[:, :, None, None]
    hard = torch.tensor([5, 5])
    right = math.log(1 + math.exp(-1 / 0.07))
    p = math.e / (math.e + 1)
    entropies = [math.log(math.exp(size) + 1) - p * size for size in (2, 3)]

    def loss(**options: float | str) -> float:
        return Objective(**{"lambda_reg": 0.0} | options)(features, labels, hard).item()

    assert loss(lambda_reg=1.0) == pytest.approx((1 + 4) / 4)
    assert loss(lambda_reg=1.0, metric="cosine") == pytest.approx(0, abs=1e-7)
    assert loss(lambda_reg=1.0, norm="l2") == pytest.approx(0, abs=1e-7)
    assert loss(infonce=1.0) == pytest.approx(right, rel=1e-4)
    assert loss(ce=1.0) == pytest.approx(sum(entropies) / 2)
    assert loss(infonce=0.3, ce=0.2, lambda_reg=2.0) == pytest.approx(0.3 * right + 0.1 * sum(entropies) + 2.5)


def test_the_supervised_term_finds_the_class_among_the_others() -> None:
    """Against a loop over anchors; a class of one image contributes 0 and still counts in the mean."""
    features, labels, hard, _norm = batch()
    similarity = torch.nn.functional.cosine_similarity(features.flatten(1)[:, None], labels.flatten(1)[None], 2) / 0.07
    total = 0.0
    for anchor, other in ((0, 1), (1, 0)):
        among = [similarity[anchor, j].exp().item() for j in range(4) if j != anchor]
        total -= math.log(similarity[anchor, other].exp().item() / sum(among))

    assert supcon(features, labels, hard).item() == pytest.approx(total / 4, rel=1e-6)
    assert supcon(features, labels, torch.arange(4)).item() == 0


def test_the_discrepancy_of_sets_by_a_loop() -> None:
    """Kernels summed over bandwidths, all pairs; equal sets in another order have none."""
    x, y = 3 * draw(3, 2, 1, 1), draw(4, 2, 1, 1, name="others")

    def kernel(a: Tensor, b: Tensor) -> float:
        return sum(math.exp(-(a - b).square().sum().item() / (2 * s)) for s in (10, 15, 20, 50))

    def mean(one: Tensor, two: Tensor) -> float:
        return sum(kernel(a, b) for a in one for b in two) / (len(one) * len(two))

    assert mmd(x, y).item() == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), rel=1e-10)
    assert mmd(x, x.flip(0)).item() == pytest.approx(0, abs=1e-12)


def test_a_norm_gives_every_element_mean_0_and_scale_1_but_for_those_that_hardly_vary() -> None:
    values = 0.02 * draw(50, 2, 3, 2, 2) + draw(3, 2, 2, name="offset")
    values[:, :, 1] = 0.25
    norm = fit_norm(values)
    flat = ((values - norm.mean) / norm.scale).reshape(100, 3, 2, 2)
    alive = [0, 2]
    floor = 0.1 * values.reshape(100, -1).var(0, correction=0).mean().sqrt()

    assert norm.mean.dtype == norm.scale.dtype == torch.float32
    assert flat[:, alive].mean(0).abs().max() < 1e-4
    assert torch.allclose(flat[:, alive].std(0, correction=0), torch.ones(2, 2, 2, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(norm.scale[1].double(), floor, rtol=1e-5)
    assert torch.equal(fit_norm(values[:1, :1]).scale, torch.ones(3, 2, 2))


def test_the_gradient_is_affine_in_labels_where_it_is_said_to_be() -> None:
    """Fact D's condition, by three points on a line of labels."""
    features, labels, hard, norm = batch()
    features.requires_grad_()
    for name, objective in TERMS.items():
        ends = [torch.autograd.grad(objective(features, size * labels, hard, norm), features)[0] for size in (0, 1, 2)]
        bent = (ends[0] + ends[2] - 2 * ends[1]).abs().max().item()

        assert (bent < 1e-12) == objective.is_affine, name


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ({"norm": "l2"}, (1, 4, 4), "norm works over channels"),
        ({"ce": 0.1}, (1, 4, 4), "ce works over channels"),
        ({"metric": "cosine"}, (1, 1, 1), "metric compares directions"),
        ({"infonce": 0.1}, (1, 1, 1), "infonce compares directions"),
        ({"supcon": 0.1}, (1, 1, 1), "supcon compares directions"),
    ],
)
def test_terms_without_meaning_for_a_form_are_refused(
    options: dict[str, float | str], shape: tuple[int, int, int], said: str
) -> None:
    objective = Objective(**options)
    objective.check(form((8, 4, 4)))

    with pytest.raises(UsageError, match=said):
        objective.check(form(shape))


def test_zscore_needs_its_numbers() -> None:
    features, labels, hard, _norm = batch()

    with pytest.raises(UsageError, match="needs a mean and a scale"):
        Objective(norm="zscore")(features, labels, hard)
