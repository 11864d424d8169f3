"""A net as a function of one flat parameter vector, its training loss, and first and second derivatives of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, autograd, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ..augment._augment import Step, apply, flips
from ..nets._net import Net
from ..privileged._form import Form
from ..privileged._objective import Norm, Objective
from . import _dual

__all__ = ["Called", "Part", "Privileged", "Pull", "Student", "compares_batches", "split_draws"]


@dataclass(frozen=True, kw_only=True)
class Privileged:
    """Feature or attention labels of some images, and what a student loses by not giving them (DCPI)."""

    labels: Tensor
    """(m, *form.shape)."""
    hard: Tensor
    """(m,) int64 classes."""
    form: Form
    objective: Objective
    norm: Norm | None = None
    """For the norm `zscore`."""
    mirror: bool = False
    """Whether labels are mirrored with their images; where not, they stay as they are whatever happens to pixels."""

    def rows(self, own: Tensor, labels: Tensor) -> Privileged:
        """Those of some of the images, out of `labels` (m, *shape)."""
        return replace(self, labels=labels[own], hard=self.hard[own])

    def loss(self, maps: Tensor, mirrored: Tensor | None) -> Tensor:
        """The objective of what the tapped block gave, (m, c, h, w) or (m, f).

        Args:
            maps: of the augmented images, at the student's own parameters.
            mirrored: (m,) bool, which of the images are mirrored; None for none.
        """
        labels = self.labels
        if self.mirror and mirrored is not None:
            labels = torch.where(mirrored.to(labels.device).reshape(-1, 1, 1, 1), labels.flip(-1), labels)
        return self.objective(self.form.reduce(maps), labels, self.hard, self.norm)


@dataclass(frozen=True)
class Part:
    """Some images of a batch, as one graph sees them."""

    images: Tensor
    """(m, c, h, w), before augmentation."""
    target: Tensor
    """(m,) int64 labels or (m, k) soft labels as logits."""
    draws: tuple[Step, ...]
    weight: float
    """Multiplies the part's mean cross-entropy: m / b in a batch of b images, times the loss scale."""
    privileged: Privileged | None = None
    share: float = 1.0
    """m / b, which multiplies the objective of the privileged labels."""

    @property
    def layer(self) -> int | None:
        """The block, from 1, whose output the loss sees beside the logits."""
        return None if self.privileged is None else self.privileged.form.layer

    def seen(self) -> Tensor:
        """The augmented images."""
        return apply(self.images, self.draws)

    def leaves(self) -> tuple[Part, dict[str, Tensor]]:
        """The same part with leaves for what its loss can be differentiated in, and these by name.

        They are `images`, and `target` and `privileged` where there are such labels.
        """
        found = {"images": self.images.detach().requires_grad_(True)}
        target, privileged = self.target.detach(), self.privileged
        if target.is_floating_point():
            found["target"] = target.requires_grad_(True)
        if privileged is not None:
            found["privileged"] = privileged.labels.detach().requires_grad_(True)
            privileged = replace(privileged, labels=found["privileged"])
        return replace(self, images=found["images"], target=target, privileged=privileged), found

    def loss(self, scores: Tensor, maps: Tensor | None = None) -> Tensor:
        """Cross-entropy of the net's logits (m, k), and the objective of the maps that privileged labels are of."""
        entropy = self._entropy(scores)
        if self.privileged is None:
            return entropy
        if maps is None:
            raise ValueError("a part with privileged labels is given the maps of their block")
        return entropy + self.share * self.privileged.loss(maps, flips(self.draws, len(maps)))

    def _entropy(self, scores: Tensor) -> Tensor:
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
    privileged: Tensor | None
    """(m, *shape) for privileged labels."""


@dataclass(frozen=True)
class Student:
    """Derivatives at a flat vector (P,) in the order of `named_parameters()`; the net's own tensors are not touched."""

    net: Net
    by_hand: bool
    """Whether `_dual` takes the derivatives; otherwise automatic differentiation, which any net allows."""

    def loss(self, vector: Tensor, part: Part) -> Tensor:
        """The part's loss, differentiable in vector, images, soft and privileged labels.

        Batch norm sees the part alone and writes its statistics into copies.
        """
        if part.layer is None:
            return part.loss(functional_call(self.net, self._state(vector), (part.seen(),)))
        maps, scores = self._tapped("tap", vector, part.seen(), part.layer)
        return part.loss(scores, maps)

    def read(self, vector: Tensor, maps: Tensor, layer: int) -> Tensor:
        """(m, k) logits that the part of the net after block `layer`, at the vector, gives for maps of that block.

        Differentiable in the maps; the vector is a constant.
        """
        logits: Tensor = self._tapped("rest", vector.detach(), maps, layer)
        return logits

    def gradient(self, vector: Tensor, parts: Iterable[Part]) -> Tensor:
        """(P,) gradient of the parts' summed loss, without graph."""
        leaf = vector.detach().requires_grad_(True)
        own, total = self._unflatten(vector), torch.zeros_like(vector)
        for part in parts:
            if self.by_hand:
                found = _dual.gradient(self.net, own, part.seen(), part.loss, layer=part.layer)
                total += torch.cat([tensor.reshape(-1) for tensor in found])
            else:
                total += autograd.grad(self.loss(leaf, part), leaf)[0]
        return total

    def pulls(self, vector: Tensor, parts: Iterable[Part], direction: Tensor, *, curvature: bool) -> Iterator[Pull]:
        """Differentiate <direction, gradient of a part's loss>, part by part; `curvature` in the parameters too."""
        own, along = (self._unflatten(vector), self._unflatten(direction)) if self.by_hand else ([], [])
        for plain in parts:
            part, leaves = plain.leaves()
            images, *labels = leaves.values()
            if self.by_hand:
                seen = part.seen()
                slope, found, pixels, rest = _dual.pull(
                    self.net, own, along, seen.detach(), part.loss, labels, curvature=curvature, layer=part.layer
                )
                rest += [torch.cat([tensor.reshape(-1) for tensor in found])] if curvature else []
                pixels = autograd.grad(seen, images, pixels)[0] if part.draws else pixels
            else:
                leaf = vector.detach().requires_grad_(True)
                (gradient,) = autograd.grad(self.loss(leaf, part), leaf, create_graph=True)
                slope = direction @ gradient
                pixels, *rest = autograd.grad(slope, [images, *labels, *([leaf] if curvature else [])])
            parameters = rest.pop() if curvature else None
            pulled = dict(zip(list(leaves)[1:], rest, strict=True))
            yield Pull(slope.detach(), parameters, pixels, pulled.get("target"), pulled.get("privileged"))

    def _state(self, vector: Tensor, prefix: str = "") -> dict[str, Tensor]:
        """Parameters out of the vector and copies of the buffers, by name."""
        names = [name for name, _parameter in self.net.named_parameters()]
        state = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        state |= zip(names, self._unflatten(vector), strict=True)
        return {prefix + name: tensor for name, tensor in state.items()}

    def _tapped(self, what: str, vector: Tensor, values: Tensor, layer: int) -> Any:
        """What the net's own `tap` or `rest` says at the vector."""
        called = Called(self.net, methodcaller(what, values, layer))
        return functional_call(called, self._state(vector, "net."), ())

    def _unflatten(self, vector: Tensor) -> list[Tensor]:
        own = list(self.net.parameters())
        pieces = vector.split([parameter.numel() for parameter in own])
        views = [piece.view_as(parameter) for piece, parameter in zip(pieces, own, strict=True)]
        if not self.by_hand:
            return views
        kind = _dual.layout(vector)
        return [view.contiguous(memory_format=kind) if view.dim() == 4 else view for view in views]


class Called(nn.Module):
    """A function of a net as the forward pass of a module, which `functional_call` asks for."""

    def __init__(self, net: Net, what: Callable[[Net], Any]) -> None:
        super().__init__()
        self.net, self.what = net, what

    def forward(self) -> Any:
        """What the function says of the net with the parameters of the call."""
        return self.what(self.net)


def compares_batches(objective: Objective) -> bool:
    """Whether the labels of a batch see each other, so that the objective of a batch is not a mean over its images."""
    return objective.metric == "mmd" or objective.infonce > 0 or objective.supcon > 0


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
