"""How labels change the distance between the gradient they give a net and that of real images: exactly, two ways.

With g the gradient of [cross entropy + objective] of the labelled images and u = dD/dg, the derivative of D by a label
f is that of <u, g>. Where the objective is the mean square (Fact D), g is affine in f and

    dD/df = -2 lambda_reg / (B d scale^2) * (derivative of the reduced feature along u),

one pass forward with a tangent. Everything else is differentiated twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn import functional

from ..distill import _dual
from ..distill._gradients import Matched, matched, pull_of
from ..distill._student import Called, Privileged
from ..nets._net import Net, mixes_samples
from ..privileged._form import Form
from ..privileged._scale import encoder_parameters

__all__ = ["Labelled", "encoder_rows", "label_gradients", "reduced_tangent"]

DISTANCE = "ours"


@dataclass(frozen=True)
class Labelled:
    """Distilled images of one class as a net sees them in training."""

    images: Tensor
    """(m, c, h, w), augmented."""
    hard: Tensor
    """(m,) int64."""
    mirrored: Tensor | None
    """(m,) bool, which images are mirrored; None for none."""
    soft: Tensor | None = None
    """(m, k) log-probabilities of soft labels; None without them."""
    soft_weight: float = 0.0

    def loss(self, logits: Tensor) -> Tensor:
        """Cross entropy, and the divergence to the soft labels."""
        loss = functional.cross_entropy(logits, self.hard)
        if self.soft is None or not self.soft_weight:
            return loss
        said = functional.log_softmax(logits, dim=1)
        return loss + self.soft_weight * functional.kl_div(said, self.soft, reduction="batchmean", log_target=True)


def encoder_rows(net: Net) -> Matched:
    """What is compared: the rows of all weights but the classifier's, whose gradient no label changes (Fact C)."""
    encoder = {id(parameter) for parameter in encoder_parameters(net)}
    every = matched(net, DISTANCE)
    kept = [pair for pair in zip(every.parameters, every.first_rows, strict=True) if id(pair[0]) in encoder]
    return Matched(tuple(parameter for parameter, _row in kept), tuple(row for _parameter, row in kept))


def label_gradients(
    net: Net,
    part: Labelled,
    target: Sequence[Tensor],
    compared: Matched,
    labels: Sequence[Privileged],
    *,
    shortcut: bool,
) -> tuple[float, Tensor]:
    """Distances of the gradient that images and labels give a net from that of real images, and their derivatives.

    Args:
        net: its norms must not mix samples.
        part: m images of one class.
        target: gradient of real images by `compared.parameters`, constant.
        compared: from `encoder_rows`.
        labels: K sets of labels (m, *shape) of these images, of one form; each is matched by itself.
        shortcut: by Fact D, which takes an affine objective; otherwise by differentiating twice.

    Returns:
        The sum of the K distances, and its derivatives by the labels (K, m, *shape).

    Raises:
        ValueError: the shortcut for an objective that is not affine in the labels.
    """
    if shortcut and not all(one.objective.is_affine for one in labels):
        raise ValueError("the shortcut takes objectives that are affine in the labels")
    form = labels[0].form
    if shortcut and _dual.fits(net) and not mixes_samples(net):
        return _in_one_pass(net, part, target, compared, labels)
    maps, logits = net.tap(part.images, form.layer)
    plain, total, found = part.loss(logits), 0.0, []
    for index, one in enumerate(labels):
        keep = index + 1 < len(labels)
        if shortcut:
            loss = plain + one.loss(maps, part.mirrored)
            current = torch.autograd.grad(loss, compared.parameters, retain_graph=keep)
            value, pull = pull_of(current, target, compared, DISTANCE)
            found.append(_by_fact_d(part, one, _tangent(net, part.images, compared, pull, form)))
        else:
            leaf = one.labels.detach().requires_grad_(True)
            loss = plain + one.rows(torch.arange(len(leaf)), leaf).loss(maps, part.mirrored)
            current = torch.autograd.grad(loss, compared.parameters, create_graph=True)
            value, pull = pull_of(current, target, compared, DISTANCE)
            slopes = torch.autograd.grad(current, leaf, pull, retain_graph=keep, materialize_grads=True)
            found.append(slopes[0])
        total += value
    return total, torch.stack(found)


def _in_one_pass(
    net: Net, part: Labelled, target: Sequence[Tensor], compared: Matched, labels: Sequence[Privileged]
) -> tuple[float, Tensor]:
    """Fact D by hand: gradient and tangent of one forward pass, without a graph."""
    form, everything = labels[0].form, list(net.parameters())
    with torch.no_grad():
        kept = _dual.Kept(net, [parameter.detach() for parameter in everything], part.images)
    places = [index for index, one in enumerate(everything) if any(one is other for other in compared.parameters)]
    still = [torch.zeros_like(parameter) for parameter in everything]
    total, found = 0.0, []
    for one in labels:

        def loss(logits: Tensor, maps: Tensor | None, one: Privileged = one) -> Tensor:
            if maps is None:
                raise ValueError("a net that is tapped gives maps")
            return part.loss(logits) + one.loss(maps, part.mirrored)

        gradient = kept.gradient(loss, form.layer)
        value, pull = pull_of([gradient[index] for index in places], target, compared, DISTANCE)
        along = list(still)
        for index, direction in zip(places, pull, strict=True):
            along[index] = direction
        with torch.no_grad():
            slope = reduced_tangent(form, *kept.tangent(along, form.layer))
        total += value
        found.append(_by_fact_d(part, one, slope))
    return total, torch.stack(found)


def _by_fact_d(part: Labelled, one: Privileged, slope: Tensor) -> Tensor:
    """The derivative by the labels, of the derivative of the reduced features along the pull."""
    slope = slope * (-2 * one.objective.lambda_reg / one.labels.numel())
    if one.objective.norm == "zscore" and one.norm is not None:
        slope = slope / one.norm.scale.to(slope).square()
    if one.mirror and part.mirrored is not None:
        slope = torch.where(part.mirrored.to(slope.device).reshape(-1, 1, 1, 1), slope.flip(-1), slope)
    return slope


def _tangent(net: Net, images: Tensor, compared: Matched, along: Sequence[Tensor], form: Form) -> Tensor:
    """Derivative of the reduced features (m, *form.shape) of images along a direction in the compared parameters."""
    moving = {id(parameter): direction for parameter, direction in zip(compared.parameters, along, strict=True)}
    with torch.no_grad():
        tap = Called(net, lambda net: form.reduce(_as_far_as(net, images, form.layer)))
        named = {name: value for name, value in tap.named_parameters() if id(value) in moving}
        values = {name: value.detach() for name, value in named.items()}
        directions = {name: moving[id(value)] for name, value in named.items()}
        return _slope(lambda given: functional_call(tap, given, ()), values, directions)


def _as_far_as(net: Net, values: Tensor, layer: int) -> Tensor:
    """What block `layer`, from 1, gives; the rest of the net is not computed."""
    for block in net.chain()[:layer]:
        values = block(values)
    return values


def reduced_tangent(form: Form, maps: Tensor, moved: Tensor) -> Tensor:
    """Derivative of `form.reduce` along `moved`; equal largest values share it, as they do in torch."""
    if form.attention is None or form.pool == "avg":
        return form.reduce(moved)
    axes = (1,) if form.attention == "spatial" else (2, 3)
    largest = maps == form.reduce(maps)
    return (largest * moved).sum(axes, keepdim=True) / largest.sum(axes, keepdim=True)


def _slope(function: Callable[[Any], Tensor], at: Any, along: Any) -> Tensor:
    with warnings.catch_warnings():  # torch warns of its own use of torch.jit, once
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        return _derivative(function, at, along)


def _derivative(function: Callable[[Any], Tensor], at: Any, along: Any) -> Tensor:
    slope: Tensor = jvp(function, (at,), (along,))[1]
    return slope
