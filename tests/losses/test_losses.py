"""Losses against published golden values (float64), closed forms and finite differences."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel import _plugins
from ddlabel.errors import UsageError
from ddlabel.losses._loss import Targets

STUDENT = torch.tensor([[1, 2, 0.5, -1], [0, -1, 3, 0.5]], dtype=torch.float64)
TEACHER = torch.tensor([[2, 0.5, -1, 0], [-0.5, 0, 2.5, 1]], dtype=torch.float64)
HARD = torch.tensor([0, 2])
LOGITS = Targets(HARD, TEACHER, "logit", None)
PROBABILITIES = Targets(HARD, TEACHER.softmax(1), "prob", None)


def loss(name: str, **options):
    return _plugins.load("losses", name, "LOSS")(**options)


GOLDEN = [
    ("ce", {}, LOGITS, 0.817554),
    ("softce", {}, LOGITS, 1.225384),
    ("kl", {"temperature": 1.0}, LOGITS, 0.379999),
    ("kl", {}, LOGITS, 0.001236),
    ("kl_t2", {}, LOGITS, 0.494573),
    ("kl_t2", {"temperature": 4.0}, LOGITS, 0.483860),
    ("mse", {}, LOGITS, 1.031250),
    ("mse_ce", {}, LOGITS, 1.113005),
    ("softce_ce", {}, LOGITS, 1.307139),
    ("kl_ce", {}, LOGITS, 0.082992),
    ("cosine", {}, LOGITS, 0.325569),
    ("cosine", {"allow_prob": True}, PROBABILITIES, 0.282037),
    ("gift", {"form": "code"}, LOGITS, 0.319842),
    ("gift", {"form": "paper"}, LOGITS, 0.319324),
    ("gift", {"form": "code", "allow_prob": True}, PROBABILITIES, 0.284804),
    ("gift", {"form": "paper", "allow_prob": True}, PROBABILITIES, 0.285093),
    ("mse_prob", {}, LOGITS, 0.060246),
    ("kd", {}, LOGITS, 0.517229),
    ("wsld", {}, LOGITS, 10.163867),
    ("wsld", {"temperature": 4.0, "alpha": 2.25}, LOGITS, 34.639920),
    ("dkd", {"hard_weight": 0.0}, LOGITS, 3.532324),
    ("dkd", {"hard_weight": 0.0, "temperature": 1.0, "beta": 0.5}, LOGITS, 0.442646),
    ("nkd", {"hard_weight": 0.0}, LOGITS, 2.412365),
    ("nkd", {"hard_weight": 0.0, "temperature": 3.0, "gamma": 3.5}, LOGITS, 35.925988),
]


@pytest.mark.parametrize(("name", "options", "targets", "value"), GOLDEN)
def test_golden_values(name: str, options: dict, targets: Targets, value: float) -> None:
    """To 1e-6 in float64, to 1e-4 in float32."""
    single = Targets(HARD, targets.soft.float(), targets.domain, None)

    assert pytest.approx(value, abs=1e-6) == float(loss(name, **options)(STUDENT, targets))
    assert pytest.approx(value, abs=1e-4) == float(loss(name, **options)(STUDENT.float(), single))


@pytest.mark.parametrize("name", [*_plugins.names("losses")])
def test_contract(name: str) -> None:
    """A scalar, finite, the same twice, inputs unchanged, a right gradient, a documented difference."""
    plugin = _plugins.load("losses", name, "LOSS")
    student, local = STUDENT.clone().requires_grad_(True), torch.tensor([True, False])
    targets = dataclasses.replace(LOGITS, local=local)
    value = plugin()(student, targets)

    assert () == tuple(value.shape)
    assert torch.equal(value, plugin()(STUDENT, targets))
    assert plugin.needs <= {"hard", "soft"}
    assert "Differs from the authors' code in" in plugin.__doc__
    assert name == "wsld" or torch.autograd.gradcheck(lambda logits: plugin()(logits, targets), (student,))
    assert torch.equal(STUDENT, student.detach())


def test_wsld_does_not_differentiate_its_weights() -> None:
    """The gradient is that of the loss whose weights are numbers."""
    student = STUDENT.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss("wsld")(student, LOGITS), student)
    hard = functional.cross_entropy(student, HARD, reduction="none")
    weight = 1 - torch.exp(-hard / (functional.cross_entropy(TEACHER, HARD, reduction="none") + 1e-7)).detach()
    soft = -((TEACHER / 2).softmax(1) * functional.log_softmax(student / 2, 1)).sum(1)
    (expected,) = torch.autograd.grad(hard.mean() + 2.5 * 4 * (weight * soft).mean(), student)

    torch.testing.assert_close(gradient, expected)


def test_the_missing_square_of_the_temperature_costs_a_factor_of_400() -> None:
    """Gradient of kl_t2 over that of kl at T = 20."""

    def gradient(name: str) -> Tensor:
        student = STUDENT.clone().requires_grad_(True)
        return torch.autograd.grad(loss(name)(student, LOGITS), student)[0]

    torch.testing.assert_close(gradient("kl_t2"), 400 * gradient("kl"), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["cosine", "gift"])
def test_cosine_losses_ignore_scale(name: str) -> None:
    """Of the student and of the label."""
    scaled = dataclasses.replace(LOGITS, soft=7 * TEACHER)

    assert pytest.approx(float(loss(name)(STUDENT, LOGITS))) == float(loss(name)(3 * STUDENT, scaled))


def test_gift_without_hard_label_is_the_cosine_loss() -> None:
    """gamma = 0."""
    assert pytest.approx(float(loss("cosine")(STUDENT, LOGITS))) == float(loss("gift", gamma=0.0)(STUDENT, LOGITS))


def test_gift_takes_refined_labels_as_they_are() -> None:
    """Domain `unit` is not refined a second time."""
    unit = dataclasses.replace(LOGITS, soft=functional.normalize(TEACHER, dim=1), domain="unit")

    assert pytest.approx(float(loss("cosine")(STUDENT, unit))) == float(loss("gift")(STUDENT, unit))


@pytest.mark.parametrize("name", ["softce", "kl"])
def test_probabilities_and_logits_of_them_mean_the_same(name: str) -> None:
    """Softmax losses take labels of either domain."""
    assert pytest.approx(float(loss(name)(STUDENT, LOGITS))) == float(loss(name)(STUDENT, PROBABILITIES))


def test_a_refined_label_is_projected_to_a_distribution() -> None:
    """Clip at 0, divide by the sum: Refine-only with the method's own loss."""
    unit = dataclasses.replace(LOGITS, soft=torch.tensor([[0.8, 0.2, -0.1, 0.0]] * 2).double(), domain="unit")
    expected = dataclasses.replace(LOGITS, soft=torch.tensor([[0.8, 0.2, 0.0, 0.0]] * 2).double(), domain="prob")

    assert pytest.approx(float(loss("softce")(STUDENT, expected))) == float(loss("softce")(STUDENT, unit))


def test_a_refined_label_without_a_positive_value_stands_for_the_uniform_distribution() -> None:
    """Nothing is left to divide by: the limit of a vanishing floor, and finite."""
    unit = dataclasses.replace(LOGITS, soft=-functional.normalize(TEACHER.abs() + 1, dim=1), domain="unit")
    uniform = dataclasses.replace(LOGITS, soft=torch.full_like(TEACHER, 0.25), domain="prob")

    assert pytest.approx(float(loss("softce")(STUDENT, uniform))) == float(loss("softce")(STUDENT, unit))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", ["softce", "kl"])
def test_a_class_of_probability_zero_keeps_it_at_every_temperature(name: str, dtype: torch.dtype) -> None:
    """0 log 0 is 0: a one-hot label leaves -log p_T(s)_y, also at T = 20, whatever the precision."""
    one_hot = dataclasses.replace(PROBABILITIES, soft=functional.one_hot(HARD, 4).to(dtype))
    student = STUDENT.clone().to(dtype).requires_grad_(True)
    temperature = {"softce": 1.0, "kl": 20.0}[name]
    expected = functional.cross_entropy(STUDENT / temperature, HARD)
    value = loss(name)(student, one_hot)
    (gradient,) = torch.autograd.grad(value, student)
    wanted = ((STUDENT / temperature).softmax(1) - functional.one_hot(HARD, 4)) / (2 * temperature)

    assert pytest.approx(float(expected), abs=1e-6) == float(value.detach())
    torch.testing.assert_close(gradient, wanted.to(dtype))


@pytest.mark.parametrize("name", _plugins.names("losses"))
def test_logits_of_any_size_give_finite_losses_and_gradients(name: str) -> None:
    """No exponential overflows in float32."""
    student = (1e4 * STUDENT.float()).requires_grad_(True)
    huge = Targets(HARD, -1e4 * TEACHER.float(), "logit", torch.tensor([True, False]))
    value = loss(name)(student, huge)

    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, student)[0]).all()


ANY = {"logit", "prob", "logprob", "unit"}
ACCEPTED = {
    "mse": {"logit"}, "mse_ce": {"logit"}, "cosine": {"logit", "unit"}, "gift": {"logit", "unit"},
}  # fmt: skip
"""Domains taken without being told to; losses on probabilities take all."""
LABELS = {
    "logit": TEACHER,
    "prob": TEACHER.softmax(1),
    "logprob": TEACHER.log_softmax(1),
    "unit": functional.normalize(TEACHER, dim=1),
}


@pytest.mark.parametrize("domain", sorted(ANY))
@pytest.mark.parametrize("name", _plugins.names("losses"))
def test_each_loss_takes_the_domains_it_means_something_for(name: str, domain: str) -> None:
    """Others are refused, never converted."""
    targets = dataclasses.replace(LOGITS, soft=LABELS[domain], domain=domain)
    if domain in ACCEPTED.get(name, ANY):
        assert torch.isfinite(loss(name)(STUDENT, targets))
        return
    with pytest.raises(UsageError, match=f"compares logits, the labels are '{domain}'"):
        loss(name)(STUDENT, targets)


@pytest.mark.parametrize("name", ["mse", "mse_ce", "cosine", "gift"])
def test_losses_on_raw_values_refuse_probabilities(name: str) -> None:
    """They would be another objective; --set allow_prob=true takes them."""
    with pytest.raises(UsageError, match="allow_prob=true"):
        loss(name)(STUDENT, PROBABILITIES)

    assert torch.isfinite(loss(name, allow_prob=True)(STUDENT, PROBABILITIES))


@pytest.mark.parametrize("name", ["mse", "mse_ce"])
def test_squared_errors_never_take_refined_labels(name: str) -> None:
    """Their length is 1 by construction: allowing probabilities does not allow them."""
    unit = dataclasses.replace(LOGITS, soft=LABELS["unit"], domain="unit")
    with pytest.raises(UsageError, match="use gift or cosine"):
        loss(name, allow_prob=True)(STUDENT, unit)


@pytest.mark.parametrize(
    "name", [name for name in _plugins.names("losses") if "soft" in _plugins.load("losses", name, "LOSS").needs]
)
def test_soft_losses_need_soft_labels(name: str) -> None:
    """Named, with the loss that fits."""
    with pytest.raises(UsageError, match="use --loss ce"):
        loss(name)(STUDENT, Targets(HARD, None, None, None))


def test_ladd_takes_hard_labels_for_whole_images_and_soft_ones_for_views() -> None:
    """Eq. 5 sample by sample, with the weight of the local terms."""
    mixed = dataclasses.replace(LOGITS, local=torch.tensor([True, False]))
    soft = -(TEACHER[0].softmax(0) * STUDENT[0].log_softmax(0)).sum()
    hard = -STUDENT[1].log_softmax(0)[2]

    assert pytest.approx(float((soft + hard) / 2)) == float(loss("ladd")(STUDENT, mixed))
    assert pytest.approx(float((0.5 * soft + hard) / 2)) == float(loss("ladd", lambda_local=0.5)(STUDENT, mixed))


def test_ladd_counts_every_sample_as_a_view_when_none_is_marked() -> None:
    """It is soft cross entropy then, weighted."""
    expected = 0.5 * loss("softce")(STUDENT, LOGITS)

    assert pytest.approx(float(expected)) == float(loss("ladd", lambda_local=0.5)(STUDENT, LOGITS))


def equation_5(student: Tensor, soft: Tensor, hard: Tensor) -> float:
    """L_i summed over images: student (m, 1 + v, k) answers, whole image first; soft (m, v, k) logits; written out."""
    total = 0.0
    for answers, dense, label in zip(student, soft, hard, strict=True):
        total -= float(answers[0].log_softmax(0)[label])
        for answer, target in zip(answers[1:], dense, strict=True):
            total -= float((target.softmax(0) * answer.log_softmax(0)).sum())
    return total


def test_the_pool_estimates_equation_5_over_the_number_of_samples_of_an_image() -> None:
    """The mean loss of all m(1 + N^2) samples, one by one and in batches, is the mean of L_i / (1 + N^2)."""
    images, views, classes = 3, 4, 5
    source = torch.Generator().manual_seed(0)
    student = torch.randn(images, 1 + views, classes, generator=source, dtype=torch.float64)
    soft = torch.randn(images, views, classes, generator=source, dtype=torch.float64)
    hard = torch.tensor([4, 0, 2])
    pool = list(itertools.product(range(images), range(-1, views)))

    def batch(pairs: list[tuple[int, int]]) -> tuple[Tensor, Targets]:
        image, view = torch.tensor(pairs).T
        targets = Targets(hard[image], soft[image, view.clamp(min=0)], "logit", view >= 0)
        return student[image, view + 1], targets

    expected = equation_5(student, soft, hard) / (images * (1 + views))
    singles = sum(float(loss("ladd")(*batch([pair]))) for pair in pool) / len(pool)
    batches = [pool[start : start + 5] for start in range(0, len(pool), 5)]
    batched = sum(float(loss("ladd")(*batch(pairs))) for pairs in batches) / len(batches)

    assert pytest.approx(expected, abs=1e-6) == singles
    assert pytest.approx(expected, abs=1e-6) == batched


@pytest.mark.parametrize("name", ["kd", "wsld", "dkd", "nkd"])
def test_distillation_losses_take_logits_and_their_probabilities_alike(name: str) -> None:
    """Probabilities enter through their logarithm; the hard label counts once with its weight."""
    value = float(loss(name)(STUDENT, LOGITS))

    assert pytest.approx(value) == float(loss(name)(STUDENT, PROBABILITIES))


@pytest.mark.parametrize("name", ["dkd", "nkd"])
def test_the_hard_label_adds_its_cross_entropy(name: str) -> None:
    """w_hard = 1 is the golden value plus ce."""
    without = float(loss(name, hard_weight=0.0)(STUDENT, LOGITS))

    assert pytest.approx(without + 0.817554, abs=1e-6) == float(loss(name)(STUDENT, LOGITS))


def test_dkd_decomposes_the_scaled_divergence() -> None:
    """alpha = 1, beta = 1 - p_T(t)_y of the sample: T^2 KL."""
    for row in range(2):
        one = Targets(HARD[row : row + 1], TEACHER[row : row + 1], "logit", None)
        share = float((TEACHER[row] / 4).softmax(0)[HARD[row]])
        decoupled = loss("dkd", hard_weight=0.0, temperature=4.0, beta=1 - share)(STUDENT[row : row + 1], one)
        whole = loss("kl_t2", temperature=4.0)(STUDENT[row : row + 1], one)

        assert pytest.approx(float(whole), abs=1e-9) == float(decoupled)


def test_dkd_grows_over_its_warm_up() -> None:
    """min(e / 20, 1), e from 1; the hard term has its weight from the start."""
    plugin = loss("dkd")
    hard, full = 0.817554, float(plugin(STUDENT, LOGITS))
    seen = [float(plugin.at_epoch(epoch)(STUDENT, LOGITS)) for epoch in (0, 9, 19, 500)]

    assert pytest.approx([hard + share * (full - hard) for share in (0.05, 0.5, 1, 1)], abs=1e-5) == seen
    assert float(loss("dkd", warmup=0).at_epoch(0)(STUDENT, LOGITS)) == full


def test_nkd_of_two_classes_has_nothing_beside_the_hard_class() -> None:
    """One class is left: renormalised, it is 1 on both sides."""
    two = Targets(torch.tensor([0, 1]), TEACHER[:, :2], "logit", None)

    assert float(loss("nkd", gamma=0.0)(STUDENT[:, :2], two)) == float(loss("nkd", gamma=9.0)(STUDENT[:, :2], two))


def test_wsld_ignores_samples_that_the_student_has_right_already() -> None:
    """Weight 1 - exp(-ce(s)/ce(t)) goes to 0."""
    student = torch.tensor([[16.0, 0, 0, 0], [0, 0, 16.0, 0]], dtype=torch.float64)
    hard = float(loss("ce")(student, LOGITS))

    assert float(loss("wsld")(student, LOGITS)) - hard < 1e-3


@pytest.mark.parametrize("name", ["kd", "wsld", "dkd", "nkd", "mse_prob"])
def test_probabilities_of_zero_leave_distillation_losses_finite(name: str) -> None:
    """A one-hot label, its class or another: the other classes have nothing to renormalise."""
    for classes in (HARD, 3 - HARD):
        one_hot = Targets(HARD, functional.one_hot(classes, 4).double(), "prob", None)
        student = STUDENT.clone().requires_grad_(True)
        value = loss(name)(student, one_hot)
        (gradient,) = torch.autograd.grad(value, student)

        assert bool(torch.isfinite(value))
        assert bool(torch.isfinite(gradient).all())
