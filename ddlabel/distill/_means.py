"""Matching mean outputs of a net: which outputs are compared, and the exact gradient in micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..augment._augment import Step, apply
from ..nets._net import Net

__all__ = ["Outputs", "deepest", "distance_of_means", "match_means", "mean_outputs"]


@dataclass(frozen=True)
class Outputs:
    """What is compared of a net: its embedding, or its deepest taps."""

    net: Net
    taps: int | None = None
    """How many of the deepest taps; None compares the embedding alone."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Outputs (b, width) of images (b, c, h, w); the last one is the embedding."""
        if self.taps is None:
            return [self.net.embed(images)]
        return [tap.flatten(1) for tap in self.net.taps(images)[-self.taps :]]


def deepest(count: int, shallow: float) -> int:
    """Taps that stay when a share of the shallowest is left out: max(1, ceil((1 - share) * count))."""
    return max(1, math.ceil(round((1 - shallow) * count, 9)))


def distance_of_means(means: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Squared distances summed over features, of each output times f / width, f being the width of the embedding.

    So an output of any width weighs as much as the embedding, which comes last and has weight 1.

    Args:
        means, targets: of every output, (..., width).

    Returns:
        A scalar: the sum over all axes and outputs.
    """
    features = means[-1].shape[-1]
    terms = [
        (mean - target).square().sum() * (features / mean.shape[-1])
        for mean, target in zip(means, targets, strict=True)
    ]
    return torch.stack(terms).sum()


def mean_outputs(outputs: Outputs, images: Tensor, chunk: int) -> list[Tensor]:
    """Means (width,) of the outputs over images (n, c, h, w), `chunk` of them at a time, without a graph."""
    sums: list[Tensor] = []
    with torch.no_grad():
        for part in torch.split(images, chunk):
            parts = [output.sum(dim=0) for output in outputs(part)]
            sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
    return [total / len(images) for total in sums]


def match_means(
    outputs: Outputs,
    images: Tensor,
    steps: tuple[Step, ...],
    targets: Sequence[Tensor],
    microbatch: int | None = None,
) -> tuple[float, Tensor]:
    """Squared distance of mean outputs from targets, and its gradient.

    Args:
        outputs: of a frozen net whose norms do not mix samples.
        images: (m, c, h, w) distilled images of one class.
        steps: the augmentation, shared by all samples.
        targets: mean outputs (width,) of real images.
        microbatch: images per backward pass. The first pass takes the means without a graph, the second one
            back-propagates the constant d distance / d mean / m through each part: the same gradient in less memory.

    Returns:
        The distance, and d distance / d images, (m, c, h, w).
    """
    count = len(images)
    if microbatch is None or microbatch >= count:
        leaf = images.detach().requires_grad_(True)
        loss = distance_of_means([output.mean(dim=0) for output in outputs(apply(leaf, steps))], targets)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), gradient
    parts = torch.split(images.detach(), microbatch)
    with torch.no_grad():
        augmented = torch.cat([apply(part, steps) for part in parts])
    means = [mean.requires_grad_(True) for mean in mean_outputs(outputs, augmented, microbatch)]
    loss = distance_of_means(means, targets)
    pull = torch.autograd.grad(loss, means)
    gradients: list[Tensor] = []
    for part in parts:
        leaf = part.detach().requires_grad_(True)
        found = outputs(apply(leaf, steps))
        weights = [(way / count).expand_as(output) for way, output in zip(pull, found, strict=True)]
        gradients += torch.autograd.grad(found, leaf, weights)
    return float(loss.detach()), torch.cat(gradients)
