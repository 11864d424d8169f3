"""Measures of labels: values by hand, ends of their ranges, and the orderings that DCPI's Fig. 3 tells of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.privileged._measures import (
    between_variance,
    effective_rank,
    fisher_ratio,
    nearest_mean_accuracy,
    principal_axes,
    refit_head,
    uniformity,
    vendi,
    within_class_spread,
)
from ddlabel.seeding import generator


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(count: int, width: int, name: str = "noise") -> Tensor:
    return torch.randn(count, width, generator=generator(0, "test", name), dtype=torch.float64)


def test_variances_between_and_within_classes_by_hand() -> None:
    """Means (1, 0) and (4, 0) of three and one labels about the mean (1.75, 0)."""
    labels = rows((0, 0), (1, 1), (2, -1), (4, 0))
    hard = torch.tensor([3, 3, 3, 8])
    between = (3 * 0.75**2 + 2.25**2) / 4
    within = (1 + 1 + 2) / 4

    assert between_variance(labels, hard) == pytest.approx(between)
    assert fisher_ratio(labels, hard) == pytest.approx(between / within)
    assert fisher_ratio(labels[[0, 3]], hard[[0, 3]]) is None
    assert between_variance(labels[[0, 3]], hard[[0, 3]]) == pytest.approx(4)
    assert fisher_ratio(labels[[0, 0, 3]] + 1 / 3, torch.tensor([0, 0, 1])) is None


def test_the_nearest_mean_of_real_features() -> None:
    real, real_hard = rows((0, 0), (2, 0), (10, 0), (10, 2)), torch.tensor([4, 4, 7, 7])
    labels, hard = rows((1, 1), (5.4, 0), (5.6, 0), (9, 9)), torch.tensor([4, 4, 4, 7])

    assert nearest_mean_accuracy(labels, hard, real, real_hard) == 0.75


def test_a_refitted_head_is_the_least_of_its_loss() -> None:
    """Its gradient vanishes, its constant input does no harm, and a second fit gives the same bits."""
    real = torch.cat([noise(60, 3), torch.full((60, 1), 0.3)], 1)
    hard = (real[:, 0] + 0.5 * noise(60, 1, "wrong")[:, 0] > 0).long()
    head, again = refit_head(real, hard, 3), refit_head(real, hard, 3)
    weight = head.weight.clone().requires_grad_()
    inputs = (real - head.mean) / head.scale
    loss = functional.cross_entropy(inputs @ weight.T + head.bias, hard) + 1e-3 / 2 * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    accuracy, entropy = head.score(real, hard)

    assert torch.equal(head.weight, again.weight)
    assert gradient.abs().max() < 1e-5
    assert 0.75 < accuracy < 1
    assert 0 < entropy < math.log(2)
    assert head.score(-real, hard)[0] < 0.3


def test_a_head_on_more_features_than_images_is_the_least_of_its_loss_too() -> None:
    real, hard = noise(8, 30), torch.arange(8) % 2
    head = refit_head(real, hard, 2)
    weight = head.weight.clone().requires_grad_()
    inputs = (real - head.mean) / head.scale
    loss = functional.cross_entropy(inputs @ weight.T + head.bias, hard) + 1e-3 / 2 * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)

    assert weight.shape == (2, 30)
    assert gradient.abs().max() < 1e-5


def test_spread_within_classes_by_hand() -> None:
    """Classes of two orthogonal and of two opposite labels; a class of one says nothing."""
    labels = rows((1, 0), (0, 3), (1, 1), (-2, -2), (5, 0))
    hard = torch.tensor([0, 0, 1, 1, 2])

    assert within_class_spread(labels, hard) == pytest.approx((1 + 2) / 2)
    assert within_class_spread(labels, torch.arange(5)) is None
    assert within_class_spread(labels[[0, 0]], torch.zeros(2)) == pytest.approx(0, abs=1e-12)


def test_effective_rank_counts_directions() -> None:
    """A line has 1, a square 2; with variances 3:1 it is exp of the entropy; constant labels have 1."""
    uneven = rows((3**0.5, 0), (-(3**0.5), 0), (0, 1), (0, -1)) + 7
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)

    assert effective_rank(rows((1, 1), (2, 2), (5, 5))) == pytest.approx(1)
    assert effective_rank(rows((1, 0), (-1, 0), (0, 1), (0, -1)) + 3) == pytest.approx(2)
    assert effective_rank(uneven) == pytest.approx(math.exp(entropy))
    assert effective_rank(rows((0.1, 0.2), (0.1, 0.2))) == 1


def test_vendi_score_counts_kinds() -> None:
    assert vendi(rows((1, 1), (2, 2), (3, 3))) == pytest.approx(1)
    assert vendi(torch.eye(5)) == pytest.approx(5)
    assert vendi(rows((1, 0), (2, 0), (0, 1), (0, 3))) == pytest.approx(2)


def test_uniformity_by_hand() -> None:
    """Equal labels 0, opposite ones -8, and one pair of each kind in between."""
    assert uniformity(rows((1, 1), (2, 2))) == pytest.approx(0)
    assert uniformity(rows((1, 1), (-2, -2))) == pytest.approx(-8)
    mixed = math.log((math.exp(-4) + math.exp(-8) + math.exp(-4)) / 3)
    assert uniformity(rows((1, 0), (0, 1), (-1, 0))) == pytest.approx(mixed)
    assert uniformity(rows((1, 0))) is None


def test_principal_axes_keep_distances_of_flat_labels() -> None:
    flat = noise(9, 2) * torch.tensor([3.0, 1.0], dtype=torch.float64)
    turn, _upper = torch.linalg.qr(noise(6, 6, "turn"))
    points, shares = principal_axes(functional.pad(flat, (0, 4)) @ turn + 5)
    again, _shares = principal_axes(functional.pad(flat, (0, 4)) @ turn + 5)

    assert torch.allclose(torch.cdist(points, points), torch.cdist(flat, flat), atol=1e-9)
    assert shares[0] > shares[1] > 0
    assert sum(shares) == pytest.approx(1)
    assert torch.equal(points, again)
    assert torch.equal(points[points.abs().argmax(0), [0, 1]].sign(), torch.ones(2, dtype=torch.float64))
    assert principal_axes(torch.ones(3, 2))[1] == [0.0, 0.0]
    assert principal_axes(torch.ones(1, 2))[0].shape == (1, 2)


def test_noise_has_the_highest_rank_and_the_least_discrimination() -> None:
    hard = torch.arange(40) % 4
    real = noise(4, 64, "means")[hard] + 0.5 * noise(40, 64)
    plain = noise(40, 64, "other")

    assert effective_rank(plain) > 1.3 * effective_rank(real)
    assert vendi(plain) > vendi(real)
    assert (uniformity(plain) or 0) < (uniformity(real) or 0)
    assert (fisher_ratio(plain, hard) or 0) < 0.2 < (fisher_ratio(real, hard) or 0)
    assert (within_class_spread(plain, hard) or 0) > (within_class_spread(real, hard) or 0)


def test_labels_under_a_stronger_task_tell_more_and_vary_less() -> None:
    """The direction of DCPI's Fig. 3: labels descend lambda_task CE(head) beside a pull to where they began."""
    hard = torch.arange(24) % 4
    start = noise(4, 16, "means")[hard] + noise(24, 16)
    head = refit_head(start + 0.5 * noise(24, 16, "more"), hard, 4)
    outcomes = []
    for strength in (0.0, 1.0, 10.0):
        labels = start.clone().requires_grad_()
        descent = torch.optim.SGD([labels], lr=0.5)
        for _step in range(100):
            descent.zero_grad()
            logits = ((labels - head.mean) / head.scale) @ head.weight.T + head.bias
            task = functional.cross_entropy(logits, hard)
            (strength * task + 0.5 * (labels - start).square().sum() / len(labels)).backward()
            descent.step()
        outcomes.append((fisher_ratio(labels.detach(), hard) or 0, within_class_spread(labels.detach(), hard) or 0))
    ratios, spreads = zip(*outcomes, strict=True)

    assert ratios[0] < ratios[1] < ratios[2]
    assert spreads[0] > spreads[1] > spreads[2]
