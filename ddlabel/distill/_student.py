"""A net as a function of one flat parameter vector, its training loss, and first and second derivatives of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, autograd
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ..augment._augment import Step, apply
from ..nets._net import Net
from . import _dual

__all__ = ["Part", "Pull", "Student", "split_draws"]


@dataclass(frozen=True)
class Part:
    """Some images of a batch, as one graph sees them."""

    images: Tensor
    """(m, c, h, w), before augmentation."""
    target: Tensor
    """(m,) int64 labels or (m, k) soft labels as logits."""
    draws: tuple[Step, ...]
    weight: float
    """Multiplies the part's mean loss: m / b in a batch of b images."""

    def seen(self) -> Tensor:
        """The augmented images."""
        return apply(self.images, self.draws)

    def loss(self, scores: Tensor) -> Tensor:
        """Cross-entropy of the net's logits (m, k)."""
        if not self.target.is_floating_point():
            return cross_entropy(scores, self.target) * self.weight
        return -(self.target.softmax(dim=1) * scores.log_softmax(dim=1)).sum(dim=1).mean() * self.weight


@dataclass(frozen=True)
class Pull:
    """The derivatives of <direction, gradient of the loss>."""

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
    """Derivatives at a flat vector (P,) in the order of `named_parameters()`; the net's own tensors are not touched."""

    net: Net
    by_hand: bool
    """Whether `_dual` takes the derivatives; otherwise automatic differentiation, which any net allows."""

    def loss(self, vector: Tensor, part: Part) -> Tensor:
        """The part's loss, differentiable in vector, images and soft labels.

        Batch norm sees the part alone and writes its statistics into copies.
        """
        names = [name for name, _parameter in self.net.named_parameters()]
        state = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        state |= zip(names, self._unflatten(vector), strict=True)
        return part.loss(functional_call(self.net, state, (part.seen(),)))

    def gradient(self, vector: Tensor, parts: Iterable[Part]) -> Tensor:
        """(P,) gradient of the parts' summed loss, without graph."""
        leaf = vector.detach().requires_grad_(True)
        own, total = self._unflatten(vector), torch.zeros_like(vector)
        for part in parts:
            if self.by_hand:
                found = _dual.gradient(self.net, own, part.seen(), part.loss)
                total += torch.cat([tensor.reshape(-1) for tensor in found])
            else:
                total += autograd.grad(self.loss(leaf, part), leaf)[0]
        return total

    def pulls(self, vector: Tensor, parts: Iterable[Part], direction: Tensor, *, curvature: bool) -> Iterator[Pull]:
        """Differentiate <direction, gradient of a part's loss>, part by part; `curvature` in the parameters too."""
        own, along = (self._unflatten(vector), self._unflatten(direction)) if self.by_hand else ([], [])
        for part in parts:
            images = part.images.detach().requires_grad_(True)
            part = replace(part, images=images, target=part.target.detach())
            soft = [part.target.requires_grad_(True)] if part.target.is_floating_point() else []
            if self.by_hand:
                seen = part.seen()
                slope, found, pixels, rest = _dual.pull(
                    self.net, own, along, seen.detach(), part.loss, soft, curvature=curvature
                )
                rest += [torch.cat([tensor.reshape(-1) for tensor in found])] if curvature else []
                pixels = autograd.grad(seen, images, pixels)[0] if part.draws else pixels
            else:
                leaf = vector.detach().requires_grad_(True)
                (gradient,) = autograd.grad(self.loss(leaf, part), leaf, create_graph=True)
                slope = direction @ gradient
                pixels, *rest = autograd.grad(slope, [images, *soft, *([leaf] if curvature else [])])
            yield Pull(slope.detach(), rest[-1] if curvature else None, pixels, rest[0] if soft else None)

    def _unflatten(self, vector: Tensor) -> list[Tensor]:
        own = list(self.net.parameters())
        pieces = vector.split([parameter.numel() for parameter in own])
        views = [piece.view_as(parameter) for piece, parameter in zip(pieces, own, strict=True)]
        if not self.by_hand:
            return views
        kind = _dual.layout(vector)
        return [view.contiguous(memory_format=kind) if view.dim() == 4 else view for view in views]


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
