"""Gradients of the last layer: inner products by kernels against gradients by autograd of a real linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.difficulty import grand
from ddlabel.gradients import HeadGradients, head_gradients, head_step
from ddlabel.seeding import generator

M, K, F = 12, 4, 5


def head() -> tuple[torch.nn.Linear, Tensor, Tensor]:
    """A linear layer in float64, features and labels."""
    source = generator(0, "head")
    layer = torch.nn.Linear(F, K, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    features = torch.randn(M, F, generator=source, dtype=torch.float64)
    return layer, features, torch.randint(K, (M,), generator=source)


def of_head() -> HeadGradients:
    layer, features, labels = head()
    return head_gradients(layer(features).detach(), labels, features)


def by_autograd() -> Tensor:
    """(m, k * f + k): gradient of each image's cross-entropy in weights and biases."""
    layer, features, labels = head()
    rows = []
    for feature, label in zip(features, labels, strict=True):
        loss = functional.cross_entropy(layer(feature[None]), label[None])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(layer.parameters()))]))
    return torch.stack(rows)


def test_norms_inner_products_and_distances_equal_those_of_autograd() -> None:
    """To 1e-10 in float64; the norm is the GraNd score."""
    gradients, g = of_head(), by_autograd()
    columns = torch.tensor([3, 0, 7])

    torch.testing.assert_close(gradients.norms, g.norm(dim=1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        grand(gradients.logits, gradients.labels, gradients.inputs[:, 1:]), g.norm(dim=1), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(gradients.inner(columns), g @ g[columns].T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients.distances(columns), torch.cdist(g, g[columns]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients.gains(gradients.errors), g @ g.mean(dim=0), rtol=1e-10, atol=1e-10)


def test_the_distance_of_equal_gradients_is_zero() -> None:
    """Not the root of a rounding error."""
    gradients = of_head()
    twice = HeadGradients(*(torch.cat([part, part]) for part in (gradients.logits, gradients.labels, gradients.inputs)))
    columns = torch.arange(M)
    distances = twice.distances(columns)

    assert bool((distances[columns, columns] == 0).all())
    assert bool((distances[M + columns, columns] == 0).all())


@pytest.mark.parametrize("lr", [0.1, 2.0])
def test_a_simulated_step_equals_sgd_on_the_layer(lr: float) -> None:
    """Logits of all images after one step of torch's SGD on three of them."""
    gradients, chosen = of_head(), torch.tensor([2, 9, 4])
    layer, features, labels = head()
    optimiser = torch.optim.SGD(layer.parameters(), lr=lr)
    functional.cross_entropy(layer(features[chosen]), labels[chosen]).backward()
    optimiser.step()

    torch.testing.assert_close(head_step(gradients, chosen, lr), layer(features).detach(), rtol=1e-10, atol=1e-10)


def test_half_precision_is_taken_exactly() -> None:
    """float16 logits and features give what their float64 values give."""
    plain = of_head()
    half = plain.logits.half(), plain.labels, plain.inputs[:, 1:].half()
    one, other = head_gradients(*half), head_gradients(half[0].double(), half[1], half[2].double())

    assert torch.equal(one.norms, other.norms)
