"""Statistics of batch norms' inputs against loops over channels in float64, and R_bn against closed forms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ddlabel.distill import _norms
from ddlabel.distill._method import Problem
from ddlabel.distill._norms import NormStatistics, channel_moments, class_statistics, norm_layers, refitted
from ddlabel.distill._real import encoded
from ddlabel.nets._net import Net
from ddlabel.seeding import generator

MakeProblem = Callable[..., Problem]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "random"), dtype=dtype)


def inputs_of(net: Net, images: Tensor) -> list[Tensor]:
    """What every batch norm of a ConvNet sees, (b, c, h, w), written out."""
    inputs = []
    for block in net.chain():
        inputs.append(block.conv(images))
        images = block(images)
    return inputs


def naive(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance by a loop over channels."""
    channels = [maps[:, channel].double().flatten() for channel in range(maps.shape[1])]
    means = torch.stack([values.sum() / len(values) for values in channels])
    variances = [((values - values.sum() / len(values)) ** 2).sum() / len(values) for values in channels]
    return means, torch.stack(variances)


def test_moments_are_mean_and_biased_variance() -> None:
    """In float64 exactly, in float32 where the mean is a hundred times the deviation."""
    maps = random(3, 4, 5, 6)
    far = (maps + 100).float()

    for ours, theirs in zip(channel_moments(maps), naive(maps), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(channel_moments(far)[1].double(), naive(far)[1], rtol=1e-4, atol=0)


def test_gradients_of_moments_are_right() -> None:
    """Against finite differences."""
    assert torch.autograd.gradcheck(channel_moments, (random(2, 3, 2, 2).requires_grad_(True),))


@pytest.mark.parametrize("value", [3.0, -0.5])
def test_a_constant_input_has_a_known_distance(value: float) -> None:
    """|a| sqrt(c) for the mean and sqrt(c) for the variance, ten times in the first layer."""
    net = nn.Sequential(nn.BatchNorm2d(5, eps=0.0), nn.BatchNorm2d(5)).eval().double().requires_grad_(False)
    constant = torch.full((4, 5, 3, 3), value, dtype=torch.float64)
    wanted = math.sqrt(5) * (1 + abs(value))

    for first, skipped, expected in ((10.0, 0, 11 * wanted), (1.0, 0, 2 * wanted), (10.0, 1, wanted)):
        statistics = NormStatistics(net, first_weight=first, skipped=skipped)
        distance = statistics.distance(statistics.seen(constant)[1], statistics.running())
        assert float(distance) == pytest.approx(expected, abs=1e-9)


def test_the_distance_is_the_sum_of_all_layers(make_problem: MakeProblem) -> None:
    """Against norms of a net written out layer by layer; the hooks are gone afterwards."""
    net = copy.deepcopy(make_problem().backbones[1]).double()
    images = random(6, 3, 8, 8)
    statistics = NormStatistics(net)
    expected = 0.0
    for number, (layer, maps) in enumerate(zip(norm_layers(net).values(), inputs_of(net, images), strict=True)):
        mean, var = naive(maps)
        own = (mean - layer.running_mean).square().sum().sqrt() + (var - layer.running_var).square().sum().sqrt()
        expected += float(own) * (1 if number else 10)
    logits, found = statistics.seen(images)

    assert float(statistics.distance(found, statistics.running())) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(net(images), logits)
    assert not any(layer._forward_pre_hooks for layer in norm_layers(net).values())
    assert [1] == sorted(NormStatistics(net, skipped=1).seen(images)[1])


def test_other_statistics_replace_the_nets_own(make_problem: MakeProblem) -> None:
    """In the pass too, and without a change to the net."""
    net = make_problem().backbones[1]
    statistics = NormStatistics(net)
    before, images = statistics.running(), random(6, 3, 8, 8).float()
    other = copy.deepcopy(net)
    for layer in norm_layers(other).values():
        layer.running_mean.add_(1.0)  # type: ignore[union-attr]
        layer.running_var.mul_(2.0)  # type: ignore[union-attr]

    assert torch.equal(other(images), statistics.seen(images, NormStatistics(other).running())[0])
    assert torch.equal(before, statistics.running())


def test_only_batch_norms_with_running_statistics_count() -> None:
    """Instance norm has none."""
    net = nn.Sequential(nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False))

    assert ["1"] == list(norm_layers(net))


@pytest.mark.parametrize("chunk", [64, 4])
def test_statistics_of_a_class_are_those_of_all_its_images(
    chunk: int, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever parts they are read in."""
    monkeypatch.setattr(_norms, "CHUNK", chunk)
    problem = make_problem()
    net = problem.backbones[1]
    rows = class_statistics(NormStatistics(net, skipped=1), problem, None)
    exact = copy.deepcopy(net).double()

    assert (3, 2, 8) == tuple(rows.shape)
    for label, both in enumerate(rows):
        moments = [naive(maps) for maps in inputs_of(exact, encoded(problem, problem.members(label)).double())]
        wanted = torch.stack([torch.cat([pair[which] for pair in moments]) for which in (0, 1)])
        torch.testing.assert_close(both.double(), wanted, rtol=1e-4, atol=1e-5)


def test_refitted_statistics_are_means_over_shuffled_batches(
    make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one layer, whose input depends on no other; variances are the unbiased ones of torch."""
    monkeypatch.setattr(_norms, "REFIT_BATCH", 10)
    problem = make_problem()
    net = problem.backbones[0]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    order = torch.randperm(28, generator=generator(0, "order"))
    moments = [naive(net.chain()[0].conv(encoded(problem, chunk))) for chunk in order.tensor_split(3)]
    sizes = [64 * len(chunk) for chunk in order.tensor_split(3)]
    mean = torch.stack([mean for mean, _ in moments]).mean(dim=0)
    var = torch.stack([var * n / (n - 1) for (_, var), n in zip(moments, sizes, strict=True)]).mean(dim=0)

    made = refitted(net, problem, generator(0, "order"))

    torch.testing.assert_close(made.double(), torch.stack([mean, var]), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())
