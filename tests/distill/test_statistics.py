"""Statistics of layers against slow versions of them in float64, and closed forms of what they are compared by."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddlabel.distill._averages import Averages, distance, straight_through
from ddlabel.distill._densify import densify
from ddlabel.distill._statistics import (
    channel_statistics,
    collect_targets,
    graph_bytes,
    hooked_layers,
    measured,
    moments,
    patch_statistics,
)
from ddlabel.nets._net import build
from ddlabel.seeding import generator

from .conftest import trained_nets


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(0, *shape), dtype=torch.float64)


def patches(maps: Tensor, side: int) -> tuple[list[float], list[float]]:
    """Means and variances of every patch, patch by patch."""
    size = [-(-length // side) * side for length in maps.shape[2:]]
    maps = functional.interpolate(maps, size, mode="bilinear") if size != list(maps.shape[2:]) else maps
    means, variances = [], []
    for top, left in itertools.product(range(0, size[0], side), range(0, size[1], side)):
        patch = maps[:, :, top : top + side, left : left + side].reshape(-1)
        mean = patch.sum() / len(patch)
        means.append(float(mean))
        variances.append(float((patch - mean).square().sum() / len(patch)))
    return means, variances


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(8, 8, 4), (6, 10, 4), (2, 2, 4), (7, 7, 16), (1, 1, 4), (5, 4, 1)],
    ids=["divides", "both resized", "enlarged to one", "one of 16", "a single pixel", "patches of one pixel"],
)
def test_patch_statistics_are_those_of_a_loop_over_patches(height: int, width: int, side: int) -> None:
    """Per position, over batch, channels and pixels of the patch; biased variance; resized where needed."""
    maps = 3 + normal(5, 3, height, width)
    known = moments(maps)

    for given in (None, known):
        found = patch_statistics(maps, side, given)
        torch.testing.assert_close(torch.tensor(patches(maps, side), dtype=torch.float64), torch.stack(found))


def test_channel_statistics_are_those_over_batch_and_pixels() -> None:
    """Of small maps and of those that are gone through image by image."""
    for side in (3, 40):
        maps = 100 + normal(6, 4, side, side)
        mean, variance = channel_statistics(*moments(maps))

        torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), mean)
        torch.testing.assert_close(maps.var(dim=(0, 2, 3), correction=0), variance)


@pytest.mark.parametrize("side", [3, 40], ids=["at once", "image by image"])
def test_the_gradient_of_moments_is_the_one_of_mean_and_variance(side: int) -> None:
    """What autograd finds for the plain formulas."""
    weights = normal(2, 4, side, side)
    maps, twin = (normal(6, 4, side, side).requires_grad_(True) for _ in range(2))
    sum((weight * part).sum() for weight, part in zip(weights, moments(maps), strict=True)).backward()  # type: ignore[union-attr]
    plain = (twin.mean(dim=0), twin.var(dim=0, correction=0))
    sum((weight * part).sum() for weight, part in zip(weights, plain, strict=True)).backward()  # type: ignore[union-attr]

    torch.testing.assert_close(twin.grad, maps.grad)


def test_moments_of_large_means_lose_nothing_to_cancellation() -> None:
    """Float32, mean 1000 and variance 1: a mean of squares minus the square of the mean would be off by a tenth."""
    maps = normal(16, 2, 48, 48) + 1000
    _mean, variance = channel_statistics(*moments(maps.float()))

    torch.testing.assert_close(maps.var(dim=(0, 2, 3), correction=0).float(), variance, rtol=1e-3, atol=0)


def test_inputs_of_batch_norms_and_convolutions_are_measured() -> None:
    """In the order of the modules; what is not wanted is not measured; nothing listens afterwards."""
    net = trained_nets("convnet-d2-w4-bn")[0].double()
    images = normal(6, 3, 8, 8)
    layers = hooked_layers(net)
    logits, found = measured(net, layers, [True, True, False, True], images, 4)
    first = net.blocks[0]
    maps = first.conv(images)

    assert ["blocks.0.conv", "blocks.0.norm", "blocks.1.conv", "blocks.1.norm"] == [layer.name for layer in layers]
    assert found[2] is None
    assert found[0] is not None
    assert found[1] is not None
    torch.testing.assert_close(net(images), logits)
    expected = torch.cat([*channel_statistics(*moments(images)), *patch_statistics(images, 4)])
    torch.testing.assert_close(expected, found[0])
    torch.testing.assert_close(torch.cat(channel_statistics(*moments(maps))), found[1])
    assert [3, 3, 4, 4] == layers[0].lengths(len(found[0]))
    assert [4, 4] == layers[1].lengths(len(found[1]))
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_batch_norm_without_running_statistics_is_not_compared() -> None:
    """It has no target."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2))

    assert ["0", "2"] == [layer.name for layer in hooked_layers(net)]


def test_targets_are_weighted_means_of_statistics_of_batches() -> None:
    """Means of batch variances, batches weighted by their images; batch norms answer for themselves."""
    nets = trained_nets("convnet-d2-w4-bn", "convnet-d1-w4-instance")
    images = normal(10, 3, 8, 8).float()
    batches = [images[:6], images[6:]]
    targets = collect_targets(nets, batches, 4)
    with torch.no_grad():
        inputs = [nets[0].blocks[0](batch) for batch in batches]
    rows = [torch.cat([*channel_statistics(*moments(x)), *patch_statistics(x, 4)]) for x in inputs]

    torch.testing.assert_close((6 * rows[0] + 4 * rows[1]) / 10, targets[0][2])
    norm = nets[0].blocks[1].norm
    assert torch.equal(torch.cat([norm.running_mean, norm.running_var]), targets[0][3])
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), targets[1][0][:3], atol=1e-6, rtol=0)
    within = torch.stack([batch.var(dim=(0, 2, 3), correction=0) for batch in batches])
    torch.testing.assert_close((6 * within[0] + 4 * within[1]) / 10, targets[1][0][3:6])
    assert [4, 1] == [len(own) for own in targets]


def test_running_averages_have_their_own_value_and_the_gradient_of_the_latest() -> None:
    """alpha s_bar + (1 - alpha) s, but gradient 1 rather than 1 - alpha; the first statistics are the average."""
    old, latest = normal(5), normal(6)[:5].requires_grad_(True)
    seen, average = straight_through(latest, old, 0.8)
    (gradient,) = torch.autograd.grad((seen * torch.arange(5)).sum(), latest)
    first, begun = straight_through(latest, None, 0.8)

    torch.testing.assert_close(0.8 * old + 0.2 * latest.detach(), average)
    assert torch.equal(average, seen.detach())
    assert torch.equal(torch.arange(5).double(), gradient)
    assert torch.equal(latest.detach(), begun)
    assert torch.equal(latest.detach(), first.detach())
    assert not average.requires_grad


def test_the_distance_is_the_sum_of_lengths_of_differences() -> None:
    """A batch norm of target mean 0 and variance 1 with a constant input a: sqrt(c) (a + 1); finite at 0."""
    norm = nn.BatchNorm2d(9)
    (layer,) = hooked_layers(norm)
    maps = torch.full((2, 9, 3, 3), 5.0, requires_grad=True)
    target = torch.cat([torch.zeros(9), torch.ones(9)])
    found = torch.cat(channel_statistics(*moments(maps)))
    (gradient,) = torch.autograd.grad(distance(layer, found, found.detach()), maps)

    torch.testing.assert_close(torch.tensor(3 * (5 + 1.0)), distance(layer, found.detach(), target))
    assert bool(torch.isfinite(gradient).all())


def test_averages_of_layers_that_a_step_leaves_out_stay() -> None:
    """And what a step measures counts once, the first layer more often."""
    layers = hooked_layers(trained_nets("convnet-d1-w4-bn")[0])
    averages = Averages(3, layers)
    targets, found = normal(2, 8).float(), normal(3, 8).float()
    begun = averages.first(list(targets), known=False)
    total, one = averages.followed(begun, [found[0], None], 0.5, 10.0)
    state = {**begun, **one}
    both, two = averages.followed(state, [found[1], found[1]], 0.5, 10.0)
    row = two["average.3"]

    torch.testing.assert_close(10 * distance(layers[0], found[0], targets[0]), total)
    assert [True, False] == one["known.3"].tolist()
    assert torch.equal(torch.zeros(8), one["average.3"][8:])
    torch.testing.assert_close(torch.cat([0.5 * found[0] + 0.5 * found[1], found[1]]), row)
    torch.testing.assert_close(
        10 * distance(layers[0], row[:8], targets[0]) + distance(layers[1], row[8:], targets[1]), both
    )
    assert not averages.forgotten({**state, **two})["known.3"].any()


def test_densify_is_nothing_for_single_images_and_falls_when_copies_part() -> None:
    """Two copies: eigenvalues 2 and 0; two unrelated ones of unit variance: 1 and 1."""
    first, second = functional.normalize(torch.linalg.qr(normal(48, 2)).Q, dim=0).T.reshape(2, 3, 4, 4) * 48**0.5
    labels = torch.tensor([0, 0])
    p, q = (torch.tensor([2.0 / tau, 0.0], dtype=torch.float64).softmax(dim=0) for tau in (1, 4))
    values = [
        float(densify(torch.stack([first, (1 - share) * first + share * second]), labels, tau=4.0))
        for share in (0.0, 0.25, 0.5, 1.0)
    ]

    assert 0 == float(densify(normal(4, 3, 4, 4), torch.arange(4), tau=4.0))
    assert float((q * (q / p).log()).sum()) == pytest.approx(values[0])
    assert 0 == pytest.approx(values[3])
    assert sorted(values, reverse=True) == values


def test_densify_has_finite_gradients_that_part_copies() -> None:
    """Ten images of a class, some equal, some zero; as the authors scale it and as here; gradients of nothing are 0."""
    images = normal(13, 3, 32, 32).float()
    images[1], images[2] = images[0], 0
    labels = torch.tensor([5] * 10 + [2] * 2 + [7])
    for raw in (False, True):
        leaf = images.clone().requires_grad_(True)
        value = densify(leaf, labels, tau=4.0, raw=raw)
        (gradient,) = torch.autograd.grad(value, leaf)

        assert bool(torch.isfinite(value))
        assert bool(torch.isfinite(gradient).all())
        assert not gradient[12].any()
        assert raw or bool(gradient[3].any())


def test_densify_is_a_sum_over_classes_wherever_their_images_stand() -> None:
    """Class by class with the general formula; larger images are pooled to 32 px."""
    images, labels = normal(9, 3, 64, 64), torch.tensor([1, 0, 1, 2, 0, 1, 0, 0, 3])
    expected = torch.zeros((), dtype=torch.float64)
    for label in range(4):
        z = functional.avg_pool2d(images[labels == label], 2).flatten(1)
        e = torch.linalg.eigvalsh(z @ z.T / z.shape[1])
        q, p = (e / 2).softmax(dim=0), e.softmax(dim=0)
        expected += (q * (q.log() - p.log())).sum()

    torch.testing.assert_close(expected, densify(images, labels, tau=2.0))


def test_bytes_of_a_graph_are_counted() -> None:
    """At least what the maps take, about linear in the width, and no more than ten times the maps."""
    small, large = (
        build(f"convnet-d2-w{width}-bn", channels=3, size=16, classes=3, generator=generator(0)).eval()
        for width in (8, 16)
    )
    counted = [graph_bytes(net.requires_grad_(False), (3, 16, 16), 4) for net in (small, large)]

    assert 4 * 8 * (16 * 16 + 8 * 8) < counted[0] < 10 * 4 * 8 * (16 * 16 + 8 * 8)
    assert 1.5 * counted[0] < counted[1] < 2 * counted[0]
