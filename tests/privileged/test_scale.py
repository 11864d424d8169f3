"""Weights by gradient ratios: against gradients of whole batches written out here, and their units."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel import _plugins
from ddlabel.errors import UsageError
from ddlabel.nets._net import Net, build
from ddlabel.privileged import _scale
from ddlabel.privileged._form import Form
from ddlabel.privileged._objective import Objective
from ddlabel.privileged._scale import (
    encoder_parameters,
    fresh_ratios,
    gradient_ratios,
    relative_lambda,
    scale_rows,
    scale_warning,
)
from ddlabel.seeding import generator

FORM = Form(arch="convnet-d2-w4-instance", layer=1, attention="spatial", pool="avg", shape=(1, 4, 4))


def net_of(arch: str, index: int = 0) -> Net:
    return build(arch, channels=1, size=8, classes=3, generator=generator(0, "net", index)).double()


def batch(count: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    source = generator(0, "batch")
    images = torch.randn(count, 1, 8, 8, generator=source, dtype=torch.float64)
    return images, torch.arange(count) % 3, torch.rand(count, 1, 4, 4, generator=source, dtype=torch.float64)


def length(loss: Tensor, net: Net) -> float:
    gradients = torch.autograd.grad(loss, encoder_parameters(net), retain_graph=True, allow_unused=True)
    return float(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in {"resnet50", "resnet101", "swin"} else name
        for name in _plugins.names("nets")
    ],
)
def test_the_encoder_is_all_that_the_embedding_depends_on(name: str) -> None:
    net = build(name, channels=1, size=36, classes=3, generator=generator(0, "net")).eval()
    loss = net.embed(torch.randn(1, 1, 36, 36, generator=generator(0, "image"))).square().sum()
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    used = {
        id(parameter) for parameter, gradient in zip(net.parameters(), gradients, strict=True) if gradient is not None
    }

    assert used == {id(parameter) for parameter in encoder_parameters(net)}


def test_the_ratio_of_lengths_by_hand_in_one_pass_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight and the terms beside the distance do not count; parameters after the tap count as zero."""
    images, hard, labels = batch()
    net = net_of(FORM.arch)
    maps, logits = net.tap(images, 1)
    distance = (maps.mean(1, keepdim=True) - labels).square().mean()
    expected = length(distance, net) / length(functional.cross_entropy(logits, hard), net)
    objective = Objective(lambda_reg=0.03, infonce=1.0, supcon=2.0)
    whole = gradient_ratios([net], images, hard, labels, FORM, objective, seed=0)
    monkeypatch.setattr(_scale, "CHUNK", 3)
    chunked = gradient_ratios([net], images, hard, labels, FORM, objective, seed=0)

    assert whole == [pytest.approx(expected, rel=1e-12)]
    assert chunked == [pytest.approx(expected, rel=1e-10)]


def test_batch_norms_see_nothing() -> None:
    images, hard, labels = batch()
    net = net_of("convnet-d2-w4-bn")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradient_ratios([net], images, hard, labels, FORM, Objective(), seed=0)

    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_chunks_are_alike_and_hold_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images come class by class; batch norm sees a mixture, another for another seed, and never one image alone."""
    images, labels = torch.randn(25, 1, 8, 8, generator=generator(0, "many")).double(), batch()[2].repeat(4, 1, 1, 1)
    hard, seen = torch.arange(25) // 9, []
    monkeypatch.setattr(_scale, "CHUNK", 12)
    net = net_of("convnet-d2-w4-bn")
    tap = net.tap

    def noting(chunk: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        seen.append(sorted(int(hard[(images == image).flatten(1).all(1)][0]) for image in chunk))
        return tap(chunk, layer)

    monkeypatch.setattr(net, "tap", noting)
    first, again, other = (
        gradient_ratios([net], images, hard, labels[:25], FORM, Objective(), seed=seed) for seed in (0, 0, 1)
    )

    assert [len(chunk) for chunk in seen[:3]] == [9, 8, 8]
    assert all(set(chunk) == {0, 1, 2} for chunk in seen)
    assert first == again != other


def test_a_check_looks_at_up_to_a_hundred_images() -> None:
    """Drawn by name; all of them where there are no more."""
    rows = scale_rows(1000, 3)

    assert torch.equal(rows, scale_rows(1000, 3))
    assert not torch.equal(rows, scale_rows(1000, 4))
    assert len(rows.unique()) == 100
    assert rows.max() < 1000
    assert torch.equal(scale_rows(7, 0), torch.arange(7))


def test_the_relative_weight_makes_labels_pull_as_asked() -> None:
    """At rho 0.5 the median over fresh nets of the weighted gradient is half that of the classes."""
    images, hard, labels = (tensor.float() if tensor.is_floating_point() else tensor for tensor in batch())
    ratios = fresh_ratios(images, hard, labels, FORM, Objective(), classes=3, seed=1)
    weight = relative_lambda(0.5, ratios)
    pulls = []
    for index in range(5):
        net = build(FORM.arch, channels=1, size=8, classes=3, generator=generator(1, "scale", index))
        maps, logits = net.tap(images, 1)
        distance = Objective(lambda_reg=weight)(FORM.reduce(maps), labels, hard)
        pulls.append(length(distance, net) / length(functional.cross_entropy(logits, hard), net))

    assert len(ratios) == 5
    assert len(set(ratios)) == 5
    assert statistics.median(pulls) == pytest.approx(0.5, rel=1e-4)


def test_weights_that_do_nothing_are_said_and_those_that_work_are_not() -> None:
    assert scale_warning(0.5, [0.2, 0.3, 0.1]) is None
    assert scale_warning(0.0, [0.2]) is None
    assert "0.0005 times that of the classes, so they hardly count" in (scale_warning(0.5, [0.001]) or "")
    assert "15 times that of the classes, so they outweigh the classes" in (scale_warning(50, [0.3]) or "")


def test_labels_without_any_pull_have_no_weight() -> None:
    with pytest.raises(UsageError, match="no weight makes these labels count"):
        relative_lambda(0.5, [0.0, 0.0, 1.0])
