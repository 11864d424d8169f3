"""How strongly labels pull at a net beside its cross entropy, and the weight that makes them pull as asked.

The measure is the ratio of gradient lengths in the encoder at lambda_reg 1, on fresh nets. Channel attention of nets
with instance norm hardly varies between images, so its ratio is two orders below that of whole features: equal weights
do not mean equal effects. The ratio is a start, not a law: later the cross entropy fades and the labels do not.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ..nets._net import Net, build
from ..seeding import generator
from ..sharpness import frozen_statistics
from ._form import Form
from ._objective import Norm, Objective

__all__ = ["encoder_parameters", "fresh_ratios", "gradient_ratios", "relative_lambda", "scale_rows", "scale_warning"]

NETS = 5
"""Fresh nets that the median is taken over."""
CHUNK = 256
"""Images in one pass: the batch that students train on."""
MOST_IMAGES = 100
"""Images of a check before training: enough to tell what outweighs from what counts."""
WEAK, STRONG = 0.01, 10.0
"""Ratios between which the labels and the classes both count."""


def encoder_parameters(net: Net) -> list[nn.Parameter]:
    """Every parameter but the classifier's, in the order of `named_parameters()`."""
    head = {id(parameter) for parameter in net.get_submodule(net.classifier_name).parameters()}
    return [parameter for parameter in net.parameters() if id(parameter) not in head]


def gradient_ratios(
    nets: Sequence[Net],
    images: Tensor,
    hard: Tensor,
    labels: Tensor,
    form: Form,
    objective: Objective,
    norm: Norm | None = None,
    *,
    seed: int,
) -> list[float]:
    """Of each net: length of the encoder's gradient from the distance at lambda_reg 1, over that from cross entropy.

    Args:
        nets: of the form's kind, in the mode they train in; statistics of batch norms are left alone.
        images: (n, c, h, w) float32.
        hard: (n,) int64.
        labels: (n, *form.shape), one for each image.
        form: what part of the net the labels are of.
        objective: its metric and norm; the terms beside the distance do not count.
        norm: for `zscore`.
        seed: of the order of images, where they are more than one pass takes: batch norms must see all classes, and
            sets are stored class by class.
    """
    order = torch.randperm(len(images), generator=generator(seed, "scale", "order")).to(images.device)
    unit = dataclasses.replace(objective, lambda_reg=1.0, ce=0.0, infonce=0.0, supcon=0.0)
    ratios = []
    for net in nets:
        parameters = encoder_parameters(net)
        sums = [[torch.zeros_like(parameter) for parameter in parameters] for _term in range(2)]
        for rows in order.tensor_split(-(-len(order) // CHUNK)):
            with frozen_statistics(net):
                maps, logits = net.tap(images[rows], form.layer)
            terms = (
                unit(form.reduce(maps), labels[rows], hard[rows], norm),
                functional.cross_entropy(logits, hard[rows]),
            )
            for total, term in zip(sums, terms, strict=True):
                # blocks after the tap have no gradient from the distance: zeros
                found = torch.autograd.grad(
                    term * (len(rows) / len(images)),
                    parameters,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for into, gradient in zip(total, found, strict=True):
                    into += gradient
        pull, classes = (math.hypot(*(float(part.norm()) for part in total)) for total in sums)
        ratios.append(pull / classes if classes else math.inf)
    return ratios


def fresh_ratios(
    images: Tensor,
    hard: Tensor,
    labels: Tensor,
    form: Form,
    objective: Objective,
    norm: Norm | None = None,
    *,
    classes: int,
    seed: int,
) -> list[float]:
    """`gradient_ratios` of five fresh nets of the form's kind on the device of the images, each from its own stream."""
    channels, size = images.shape[1], images.shape[2]
    nets = [
        build(form.arch, channels=channels, size=size, classes=classes, generator=generator(seed, "scale", index))
        for index in range(NETS)
    ]
    return gradient_ratios(
        [net.to(images.device) for net in nets], images, hard, labels, form, objective, norm, seed=seed
    )


def scale_rows(count: int, seed: int) -> Tensor:
    """Which of so many images a check before training looks at, up to 100, drawn and then ascending: (m,) int64."""
    drawn = torch.randperm(count, generator=generator(seed, "scale", "images"))[:MOST_IMAGES]
    return drawn.sort().values


def relative_lambda(rho: float, ratios: Sequence[float]) -> float:
    """The lambda_reg at which labels pull rho times as strongly as classes: rho / median of the ratios at lambda_reg 1.

    Raises:
        UsageError: labels that do not pull at all, at any weight.
    """
    median = statistics.median(ratios)
    if not 0 < median < math.inf:
        raise UsageError(
            f"no weight makes these labels count: their gradient is {median:g} times that of the classes",
            field="lambda_mode",
            hint="use --set lambda_mode=absolute",
        )
    return rho / median


def scale_warning(lambda_reg: float, ratios: Sequence[float]) -> str | None:
    """What to tell the user of a weight at which labels hardly count, or outweigh the classes; None when both count."""
    rho = lambda_reg * statistics.median(ratios)
    if WEAK <= rho <= STRONG or lambda_reg == 0:
        return None
    effect = "hardly count" if rho < WEAK else "outweigh the classes"
    return (
        f"warning: lambda_reg {lambda_reg:g} makes the gradient of the labels {rho:.2g} times that of the classes, so "
        f"they {effect}; use --set lambda_mode=relative with lambda_reg between 0.1 and 1"
    )
