"""GSAM's gradient and the input gradient penalty: against hand values, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ddlabel.nets._net import build
from ddlabel.seeding import generator
from ddlabel.sharpness import ascent, flat_gradient, frozen_statistics, input_gradient_penalty, orthogonal

CURVATURE = torch.tensor([2.0, 1.0], dtype=torch.float64)


def quadratic(rho: float, alpha: float, *, adaptive: bool) -> Tensor:
    """GSAM's gradient of (2 x^2 + y^2) / 2 at (1, 2), where g0 is (2, 2); x and y are two parameters."""
    pair = [nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in (1.0, 2.0)]

    def backward() -> None:
        (0.5 * CURVATURE * torch.cat(pair).square()).sum().backward()

    backward()
    flat_gradient(pair, backward, rho=rho, alpha=alpha, adaptive=adaptive)
    assert [parameter.item() for parameter in pair] == [1, 2]
    return torch.cat([parameter.grad for parameter in pair if parameter.grad is not None])


def test_one_plain_step_of_a_quadratic() -> None:
    """By hand: e = (1, 1), g1 = (4, 3), v = (2, 2) - 14/25 (4, 3) = (-0.24, 0.32), g = g1 - v / 2."""
    gradient = quadratic(math.sqrt(8) / 2, 0.5, adaptive=False)

    torch.testing.assert_close(gradient, torch.tensor([4.12, 2.84], dtype=torch.float64), rtol=1e-11, atol=0)


def test_one_adaptive_step_of_a_quadratic() -> None:
    """By hand: e = (1, 4), g1 = (4, 6), v = (2, 2) - 20/52 (4, 6) = (24, -16) / 52, g = g1 - v / 2."""
    gradient = quadratic(math.sqrt(20) / 2, 0.5, adaptive=True)
    expected = torch.tensor([4 - 12 / 52, 6 + 8 / 52], dtype=torch.float64)

    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("adaptive", [True, False])
def test_without_ascent_the_gradient_is_the_plain_one(adaptive: bool) -> None:
    """rho = 0: v is 0 whatever alpha; rho small: nearly."""
    plain = torch.tensor([2.0, 2.0], dtype=torch.float64)

    torch.testing.assert_close(quadratic(0.0, 0.7, adaptive=adaptive), plain, rtol=1e-15, atol=0)
    torch.testing.assert_close(quadratic(1e-9, 0.7, adaptive=adaptive), plain, rtol=1e-8, atol=0)
    assert not torch.allclose(quadratic(0.1, 0.7, adaptive=adaptive), plain)


def test_what_is_taken_away_is_orthogonal_to_the_second_gradient() -> None:
    """<v, g1> = 0 and v + a multiple of g1 is g0; nothing but g0 is left beside a zero gradient."""
    first, second = torch.randn(2, 1000, dtype=torch.float64, generator=generator(0, "pair"))
    part = orthogonal(first, second)

    assert abs(float(part @ second)) < 1e-11
    torch.testing.assert_close((first - part) / second, ((first @ second) / (second @ second)).expand(1000))
    assert torch.equal(orthogonal(first, torch.zeros(1000, dtype=torch.float64)), first)


def test_the_ascent_has_the_length_it_is_given() -> None:
    """rho in plain norm; of e / |theta| when adaptive; none at a stationary point."""
    weights, gradient = torch.randn(2, 50, dtype=torch.float64, generator=generator(0, "pair"))

    assert pytest.approx(0.3) == float(ascent(weights, gradient, rho=0.3, adaptive=False).norm())
    assert pytest.approx(0.3) == float((ascent(weights, gradient, rho=0.3, adaptive=True) / weights).norm())
    assert not ascent(weights, 0 * gradient, rho=0.3, adaptive=True).any()


def test_a_failing_second_pass_leaves_the_weights() -> None:
    """An interrupt between the passes does not leave a net uphill."""
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)

    def stop() -> None:
        assert weight.detach()[0] > 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flat_gradient([weight], stop, rho=0.5, alpha=0.3, adaptive=False)
    assert torch.equal(weight.detach(), torch.ones(3))


class Linear(nn.Module):
    """Two logits, linear in images of 2 channels of 1 x 2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[3.0, 0.5, 1.0, 0.0], [0.0, 0.5, 3.0, 0.0]], dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def test_the_penalty_of_a_linear_net() -> None:
    """By hand: slopes (3, 1) and (4, 0) by channel, so norms 5 and 1 by pixel: the mean of 16 and 0.

    Its gradient in a weight is 2 (5 - 1) (slope / 5) / 2 for the first pixel of either logit, and 0 for the second.
    """
    net = Linear()
    images = torch.randn(3, 2, 1, 2, dtype=torch.float64, generator=generator(0, "images"))
    penalty = input_gradient_penalty(net, images)
    penalty.backward()
    expected = torch.tensor([[2.4, 0, 3.2, 0]] * 2, dtype=torch.float64)

    assert pytest.approx(8) == penalty.item()
    assert net.weight.grad is not None
    torch.testing.assert_close(net.weight.grad, expected)
    assert not images.requires_grad


def test_frozen_statistics_stay_while_the_batch_is_normalised() -> None:
    """Outputs are those of train mode; means, variances and the counter do not move; afterwards they do."""
    net = build("convnet-d1-w4-bn", channels=3, size=8, classes=2, generator=generator(0, "net")).train()
    images = torch.randn(6, 3, 8, 8, generator=generator(0, "images"))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with frozen_statistics(net):
        frozen = net(images)
    kept = all(torch.equal(before[name], value) for name, value in net.state_dict().items())

    assert kept
    assert torch.equal(frozen, net(images))
    assert int(net.state_dict()["blocks.0.norm.num_batches_tracked"]) == 1
