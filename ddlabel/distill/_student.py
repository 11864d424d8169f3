"""A net as a function of one flat parameter vector, its training loss, and first and second derivatives of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, autograd, nn
from torch.func import functional_call
from torch.nn import functional

from ..augment._augment import Step, apply
from ..nets._net import Net

__all__ = ["Part", "Pull", "Student", "mixes_samples", "split_draws"]


@dataclass(frozen=True)
class Part:
    """Some images of a batch, as one graph sees them."""

    images: Tensor
    """(m, c, h, w), before augmentation."""
    target: Tensor
    """(m,) int64 labels or (m, k) soft labels as logits."""
    draws: tuple[Step, ...]
    share: float
    """m / b: the loss is a mean over the batch of b images."""


@dataclass(frozen=True)
class Pull:
    """The derivative of <direction, gradient of the loss>."""

    slope: Tensor
    """The product itself, scalar."""
    parameters: Tensor | None
    """(P,) Hessian times direction."""
    images: Tensor
    """(m, c, h, w)."""
    target: Tensor | None
    """(m, k) for soft labels."""


@dataclass(frozen=True)
class Student:
    """Functions of a flat vector (P,) in the order of `named_parameters()`; the net's own tensors are not touched."""

    net: Net
    loss_scale: float = 1.0

    def loss(self, vector: Tensor, part: Part) -> Tensor:
        """The part's share of the batch mean of the cross-entropy, differentiable in vector, images and soft labels.

        Batch norm sees the part alone and writes its statistics into copies.
        """
        state = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        state |= self._unflatten(vector)
        scores: Tensor = functional_call(self.net, state, (apply(part.images, part.draws),))
        if part.target.is_floating_point():
            shares = part.target.softmax(dim=1)
            each = -(shares * scores.log_softmax(dim=1)).sum(dim=1).mean()
        else:
            each = functional.cross_entropy(scores, part.target)
        return each * (part.share * self.loss_scale)

    def gradient(self, vector: Tensor, parts: Sequence[Part], *, create_graph: bool = False) -> Tensor:
        """(P,) gradient of the batch loss in the vector."""
        leaf = vector if create_graph else vector.detach().requires_grad_(True)
        total: Tensor = torch.zeros_like(leaf, requires_grad=False)
        for part in parts:
            total = total + autograd.grad(self.loss(leaf, part), leaf, create_graph=create_graph)[0]
        return total

    def pull(self, vector: Tensor, part: Part, direction: Tensor, *, curvature: bool = True) -> Pull:
        """Differentiate <direction, gradient of the loss> in images, soft labels and, for `curvature`, parameters."""
        soft = part.target.is_floating_point()
        leaf = vector.detach().requires_grad_(True)
        images = part.images.detach().requires_grad_(True)
        target = part.target.detach().requires_grad_(soft)
        seen = Part(images, target, part.draws, part.share)
        (gradient,) = autograd.grad(self.loss(leaf, seen), leaf, create_graph=True)
        slope = direction @ gradient
        wanted = [images, *([target] if soft else []), *([leaf] if curvature else [])]
        found = list(autograd.grad(slope, wanted))
        return Pull(
            slope=slope.detach(),
            images=found[0],
            target=found[1] if soft else None,
            parameters=found[-1] if curvature else None,
        )

    def _unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        named = dict(self.net.named_parameters())
        pieces = vector.split([parameter.numel() for parameter in named.values()])
        return {name: piece.view_as(own) for (name, own), piece in zip(named.items(), pieces, strict=True)}


def mixes_samples(net: Net) -> bool:
    """Whether a sample's logits depend on the other samples of the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


def split_draws(draws: tuple[Step, ...], count: int, size: int) -> Iterator[tuple[Step, ...]]:
    """Augmentation records of consecutive parts of `size` of a batch of `count` images."""
    for start in range(0, count, size):
        rows = slice(start, start + size)
        yield tuple(
            Step(
                step.family,
                {name: value[rows] if len(value) == count else value for name, value in step.values.items()},
                step.align_corners,
            )
            for step in draws
        )
