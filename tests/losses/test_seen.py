"""Labels that end at the classes seen: slicing in every domain, and losses that nothing of later classes reaches."""

from __future__ import annotations

import math

import pytest
import torch

from ddlabel import _plugins
from ddlabel.losses._loss import Targets, log_probabilities, loss_of_epoch
from ddlabel.losses._seen import SeenLoss, slice_labels

SEEN = torch.tensor([True, False, True, False])
LOGITS = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, -1.0, 3.0, 0.5]], dtype=torch.float64)
HARD = torch.tensor([0, 2])
SOFT_LOSSES = [name for name in _plugins.names("losses") if "soft" in _plugins.load("losses", name, "LOSS").needs]


@pytest.mark.parametrize(
    ("domain", "label", "expected"),
    [
        ("logit", [2.0, 5.0, -1.0, 4.0], [2.0, 0.0, -1.0, 0.0]),
        ("logprob", [-1.0, -2.0, -3.0, -4.0], [-1.0, -math.inf, -3.0, -math.inf]),
        ("prob", [0.3, 0.4, 0.1, 0.2], [0.75, 0.0, 0.25, 0.0]),
        ("prob", [0.0, 0.4, 0.0, 0.6], [0.5, 0.0, 0.5, 0.0]),
        ("unit", [0.3, 0.5, -0.4, 0.7], [0.6, 0.0, -0.8, 0.0]),
        ("unit", [0.0, 0.6, 0.0, 0.8], [0.5**0.5, 0.0, 0.5**0.5, 0.0]),
    ],
)
def test_labels_are_sliced_and_renormalised(domain: str, label: list[float], expected: list[float]) -> None:
    """By hand; one with nothing at the seen classes is the same for all of them."""
    sliced = slice_labels(torch.tensor([label], dtype=torch.float64), domain, SEEN)

    assert pytest.approx(expected) == sliced[0].tolist()


@pytest.mark.parametrize("domain", ["logit", "logprob", "prob", "unit"])
def test_unseen_classes_have_no_probability(domain: str) -> None:
    """The softmax of sliced labels is that of the seen classes alone."""
    label = torch.tensor([[0.2, 0.5, 0.1, 0.2]], dtype=torch.float64)
    values = label.log() if domain in {"logit", "logprob"} else label
    found = log_probabilities(Targets(HARD[:1], slice_labels(values, domain, SEEN), domain, None, seen=SEEN)).exp()

    assert pytest.approx([2 / 3, 0, 1 / 3, 0]) == found[0].tolist()


@pytest.mark.parametrize("name", SOFT_LOSSES)
def test_no_loss_hears_of_later_classes(name: str) -> None:
    """Whatever labels say of unseen classes, loss and gradient are the same; without slicing they differ."""
    loss = loss_of_epoch(SeenLoss(_plugins.load("losses", name, "LOSS")(), SEEN), 3)
    bare = loss_of_epoch(_plugins.load("losses", name, "LOSS")(), 3)
    found, leaky = [], []
    for later in (-1.0, 4.0):
        label = torch.tensor([[2.0, later, -1.0, 0.0], [-0.5, 0.0, 2.5, later]], dtype=torch.float64)
        logits = LOGITS.clone().requires_grad_()
        value = loss(logits, Targets(HARD, label, "logit", None))
        value.backward()
        found.append((value.item(), logits.grad))
        leaky.append(bare(LOGITS, Targets(HARD, label, "logit", None)).item())

    assert math.isfinite(found[0][0])
    assert bool(torch.isfinite(found[0][1]).all())
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert leaky[0] != leaky[1]


def test_the_wrapper_drives_later_logits_down_and_keeps_the_estimator() -> None:
    """As one-hot labels do: a gradient step on an unseen logit lowers it."""
    logits = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    ladd = _plugins.load("losses", "ladd", "LOSS")(estimator="balanced")
    wrapped = SeenLoss(ladd, SEEN)
    wrapped(logits, Targets(HARD, LOGITS, "logit", torch.tensor([True, True]))).backward()

    assert bool((logits.grad[:, ~SEEN] > 0).all())
    assert "balanced" == wrapped.estimator
