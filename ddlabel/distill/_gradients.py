"""Matching gradients of a net: distances between them, and the exact gradient of a distance in micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..augment._augment import Step, apply
from ..errors import UsageError

__all__ = ["DISTANCES", "Matched", "class_gradients", "distance", "left_out", "match_gradients", "matched", "pull_of"]

DISTANCES = ("ours", "mse", "cos")
"""Names of the distances between gradients."""
EPSILON = 1e-6
"""Added to the product of two norms: rows of norm 1e-3 have distance 0.5 from themselves, as in the authors' code."""


@dataclass(frozen=True)
class Matched:
    """The part of a net's gradient that is compared."""

    parameters: tuple[nn.Parameter, ...]
    """Tensors with at least one compared row, in the order of `named_parameters()`."""
    first_rows: tuple[int, ...]
    """In each tensor, the first row that is compared; 0 unless shallow rows are left out."""


def left_out(share: float, count: int) -> int:
    """How many of `count` parameters a share leaves out: floor(share * count), in decimals as the user types them.

    >>> left_out(0.29, 100)
    29
    """
    return math.floor(share * count + 1e-9)


def matched(net: nn.Module, kind: str, mask_shallow: float = 0.0) -> Matched:
    """Which tensors and rows of a net a distance compares.

    Args:
        net: any net.
        kind: one of `DISTANCES`. `ours` compares rows of tensors with two axes or more, the others every tensor.
        mask_shallow: share alpha of the parameters that are left out. A row is left out when the index of its first
            scalar, among all P parameters flattened in the order of `named_parameters()`, is below floor(alpha*P).

    Raises:
        UsageError: a share that leaves nothing to compare.
    """
    everything = list(net.parameters())
    cut = left_out(mask_shallow, sum(parameter.numel() for parameter in everything))
    kept: list[nn.Parameter] = []
    first_rows: list[int] = []
    offset = 0
    for parameter in everything:
        if kind != "ours" or parameter.ndim > 1:
            rows, width = len(parameter), parameter.numel() // len(parameter)
            first = max(0, -((offset - cut) // width))
            if first < rows:
                kept.append(parameter)
                first_rows.append(first)
        offset += parameter.numel()
    if not kept:
        raise UsageError(
            f"option 'mask_shallow' is {mask_shallow:g}, which leaves no row of the net's gradient to match",
            field="mask_shallow",
            hint="lower it",
        )
    return Matched(tuple(kept), tuple(first_rows))


def distance(left: Sequence[Tensor], right: Sequence[Tensor], kind: str, first_rows: Sequence[int] = ()) -> Tensor:
    """Distance between two gradients, each a tensor per parameter, of equal shapes.

    Args:
        left, right: float tensors; `right` is usually a constant.
        kind: `ours` (Zhao et al., ICLR 2021): the sum over rows of 1 - cosine, a row being an output channel
            of a convolution or a unit of a linear layer; tensors of one axis contribute nothing, those of three axes
            (layer norm) are rows of their first axis. `mse`: squared L2 norm of the difference of everything. `cos`:
            1 - cosine of everything, concatenated.
        first_rows: for `ours`, rows before these are left out; none when empty.

    Returns:
        A scalar: between 0 and 2 per row for `ours`.

    Differs from the authors' code in: nothing; 1e-6 is added to the product of the norms, as there.
    """
    if kind == "mse":
        return torch.stack([(a - b).square().sum() for a, b in zip(left, right, strict=True)]).sum()
    if kind == "cos":
        return _cosine_distances(*(torch.cat([part.flatten() for part in side])[None] for side in (left, right))).sum()
    total = left[0].new_zeros(())
    for a, b, first in zip(left, right, first_rows or (0,) * len(left), strict=True):
        if a.ndim > 1:
            total = total + _cosine_distances(a[first:].flatten(1), b[first:].flatten(1)).sum()
    return total


def class_gradients(
    net: nn.Module, images: Tensor, label: int, parameters: Sequence[Tensor], chunk: int
) -> list[Tensor]:
    """Gradient of the mean cross entropy of images of one class, without a graph.

    Args:
        net: its norms must not mix samples.
        images: (n, c, h, w) float32.
        label: their class.
        parameters: tensors to differentiate by.
        chunk: images in one pass; exact for every value.
    """
    sums: list[Tensor] = []
    for part in torch.split(images, chunk):
        gradients = torch.autograd.grad(_mean_loss(net, part, label) * (len(part) / len(images)), parameters)
        sums = [a.add_(b) for a, b in zip(sums, gradients, strict=True)] if sums else list(gradients)
    return sums


def match_gradients(
    net: nn.Module,
    images: Tensor,
    label: int,
    steps: tuple[Step, ...],
    target: Sequence[Tensor],
    compared: Matched,
    *,
    kind: str = "ours",
    microbatch: int | None = None,
) -> tuple[float, Tensor]:
    """Distance of the images' gradient from a target, and its gradient by the images.

    With g the images' gradient and u = dD/dg a constant, dD/dX = d<u, g>/dX; g is a mean over images, so both passes
    go part by part: the same numbers in less memory.

    Args:
        net: its norms must not mix samples.
        images: (m, c, h, w) distilled images of one class.
        label: their class.
        steps: the augmentation, shared by all samples.
        target: gradient of real images by `compared.parameters`, constant.
        compared: what is compared.
        kind: the distance.
        microbatch: images per graph; None takes all at once.

    Returns:
        The distance and d distance / d images, (m, c, h, w).
    """
    count = len(images)
    parts = torch.split(images.detach(), microbatch or count)
    if len(parts) > 1:
        with torch.no_grad():
            augmented = torch.cat([apply(part, steps) for part in parts])
        current = class_gradients(net, augmented, label, compared.parameters, microbatch or count)
        loss, pull = pull_of(current, target, compared, kind)
    gradients: list[Tensor] = []
    for part in parts:
        leaf = part.detach().requires_grad_(True)
        mean = _mean_loss(net, apply(leaf, steps), label) * (len(part) / count)
        differentiable = torch.autograd.grad(mean, compared.parameters, create_graph=True)
        if len(parts) == 1:
            loss, pull = pull_of(differentiable, target, compared, kind)
        gradients += torch.autograd.grad(differentiable, leaf, pull)
    return loss, torch.cat(gradients)


def pull_of(
    current: Sequence[Tensor], target: Sequence[Tensor], compared: Matched, kind: str
) -> tuple[float, tuple[Tensor, ...]]:
    """The distance between two gradients, and its gradient by the current one; `kind` is of `DISTANCES`."""
    leaves = [tensor.detach().requires_grad_(True) for tensor in current]
    value = distance(leaves, target, kind, compared.first_rows)
    return float(value.detach()), torch.autograd.grad(value, leaves)


def _mean_loss(net: nn.Module, images: Tensor, label: int) -> Tensor:
    logits = net(images)
    return functional.cross_entropy(logits, torch.full((len(images),), label, device=images.device))


def _cosine_distances(a: Tensor, b: Tensor) -> Tensor:
    """(rows,) 1 - cosine of the rows of two matrices."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return 1 - (a * b).sum(dim=1) / (norms + EPSILON)
