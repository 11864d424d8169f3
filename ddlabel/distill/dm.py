"""Distribution matching: equal mean embeddings under random nets (Zhao & Bilen, WACV 2023, arXiv:2110.04181)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from ..augment._augment import apply
from ..augment._augment import build as build_augmentation
from ..config import opt
from ..errors import UsageError
from ..nets._net import Net
from ..nets._net import build as build_net
from ..selection import select_random
from ._method import Distilled, Problem, State

__all__ = ["METHOD", "DistributionMatching", "class_means", "match_means", "published_step_size"]

REAL_CHUNK = 64
"""Real images in one forward pass on the CPU: their maps stay in the cache."""
GROUP_IMAGES = 128
"""Distilled images whose classes are embedded together; a class larger than that is a group of its own."""


def published_step_size(ipc: int, classes: int) -> float:
    """Step size on images: 1, or 10 above 50 images per class (125 for 100 classes or more).

    The gradient of an image falls as 1/ipc. Published: 1 for CIFAR-10 up to ipc 50 and CIFAR-100 up to ipc 125, 10 for
    CIFAR-10 with ipc 100 to 1250. The rule takes the published limits and is ours in between.
    """
    return 1.0 if ipc <= (50 if classes < 100 else 125) else 10.0


@dataclass(frozen=True, kw_only=True)
class DistributionMatching:
    """Gradient steps on distilled images that pull their mean embedding, class by class, to that of real images.

    Every step draws a new random net, frozen and in train mode, one batch of real images per class, and one siamese
    augmentation per class, shared by its real and distilled images. The loss is the sum over classes of the squared
    distance between the two means, summed over features.

    Differs from the authors' code in: `steps` counts steps exactly, theirs makes one more; a real batch is capped at
    the size of its class, theirs fails for nets with batch norm; seeds are explicit. Gradients are accumulated over
    groups of classes before the one step, which is the same sum.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    steps: int = opt(20_000, "gradient steps, each with a new random net", min=1)
    lr_images: float | None = opt(
        None, "step size on images in model-input space; auto: 1, or 10 above 50 images per class", above=0
    )
    momentum: float = opt(0.5, "momentum of the step on images", min=0, below=1)
    batch_real: int = opt(256, "real images per class and step, at most the whole class", min=1)
    start: str = opt("real", "first images: random real ones, or Gaussian noise", choices=("real", "noise"))
    augment: str = opt("dsa", "siamese augmentation of real and distilled images", choices=("dsa", "none"))
    microbatch: int | None = opt(
        None, "distilled images in one backward pass, exact by two passes; auto: a whole class", min=1
    )

    def step_count(self, problem: Problem) -> int:
        """The option `steps`."""
        del problem
        return self.steps

    def init(self, problem: Problem, generator: Generator) -> State:
        """First images (k*ipc, c, h, w) and their velocity, zero.

        Raises:
            UsageError: `microbatch` with a net whose batch norm couples the images of a batch.
        """
        if self.microbatch is not None and _has_batch_norm(_random_net(problem, generator)):
            raise UsageError(
                f"option 'microbatch' splits batches, net '{problem.arch}' has batch norm, which needs them whole",
                field="microbatch",
                hint="drop it or take a net with instance norm",
            )
        counts = torch.full((len(problem.classes),), problem.ipc)
        chosen = problem.pixels[select_random(problem.labels, counts, generator)]
        images = problem.space.encode(chosen)
        if self.start == "noise":
            images = torch.randn(images.shape, generator=generator)
        return {"images": images, "velocity": torch.zeros_like(images)}

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """One step of momentum SGD on all images."""
        del index
        net = _random_net(problem, generator)
        images = state["images"]
        gradient = torch.empty_like(images)
        total = 0.0
        for group in _groups(problem, net):
            rows = slice(group.start * problem.ipc, group.stop * problem.ipc)
            loss, gradient[rows] = self._match_group(problem, net, images[rows], group, generator)
            total += loss
        velocity = self.momentum * state["velocity"] + gradient
        images = images - self._step_size(problem) * velocity
        return {"images": images, "velocity": velocity}, {"loss": total / len(problem.classes)}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The images as they are, not clamped to colours that exist."""
        return Distilled(
            labels=problem.distilled_labels,
            images=state["images"].cpu(),
            metrics={"lr_images": self._step_size(problem)},
        )

    def _step_size(self, problem: Problem) -> float:
        if self.lr_images is not None:
            return self.lr_images
        return published_step_size(problem.ipc, len(problem.classes))

    def _match_group(
        self, problem: Problem, net: Net, images: Tensor, group: range, generator: Generator
    ) -> tuple[float, Tensor]:
        """Loss of a group of classes and its gradient for their images."""
        augment = build_augmentation(self.augment, flip=problem.flip)
        size = problem.size
        steps = [augment.draw(1, size, size, generator, siamese=True) for _ in group]
        real = [
            apply(self._draw_real(problem, label, generator), drawn) for label, drawn in zip(group, steps, strict=True)
        ]
        targets = class_means(net, real, chunk=None if _has_batch_norm(net) else REAL_CHUNK)
        leaf = images.detach().requires_grad_()
        augmented = torch.cat(
            [apply(part, drawn) for part, drawn in zip(torch.split(leaf, problem.ipc), steps, strict=True)]
        )
        loss, pulled = match_means(net, augmented.detach(), targets, microbatch=self.microbatch)
        (gradient,) = torch.autograd.grad(augmented, leaf, pulled)
        return loss, gradient

    def _draw_real(self, problem: Problem, label: int, generator: Generator) -> Tensor:
        """A batch of real images of a class, without replacement."""
        members = problem.members[label]
        chosen = members[torch.randperm(len(members), generator=generator)[: self.batch_real]]
        return problem.space.encode(problem.pixels[chosen].to(problem.device))


def class_means(net: Net, batches: Sequence[Tensor], *, chunk: int | None) -> Tensor:
    """Mean embedding (k, f) of each batch of images (m, c, h, w), without gradients.

    Args:
        net: frozen.
        batches: one per class, of any sizes.
        chunk: images in one forward pass; None sends all classes through in one, as batch norm needs.
    """
    with torch.no_grad():
        if chunk is not None:
            parts = [torch.cat([net.embed(part) for part in torch.split(batch, chunk)]) for batch in batches]
        else:
            parts = list(torch.split(net.embed(torch.cat(list(batches))), [len(batch) for batch in batches]))
        return torch.stack([part.mean(dim=0) for part in parts])


def match_means(net: Net, images: Tensor, targets: Tensor, *, microbatch: int | None = None) -> tuple[float, Tensor]:
    """Squared distance between class means of embeddings and targets, and its gradient for the images.

    Args:
        net: frozen.
        images: (g*ipc, c, h, w) of g classes, class-major.
        targets: (g, f) mean embeddings of real images.
        microbatch: images in one backward pass. The first pass finds the means without a graph; the second pulls the
            constant 2 (mean - target) / ipc back through one micro-batch at a time. Needs a net that treats images
            independently.

    Returns:
        The sum over classes and features, not their mean, as the published step sizes go with it; and the gradient.
    """
    if microbatch is None or microbatch >= len(images):
        leaf = images.detach().requires_grad_()
        embedded = net.embed(leaf)
        offsets, loss = _offsets(embedded.detach(), targets)
        return loss, torch.autograd.grad(embedded, leaf, offsets)[0]
    parts = torch.split(images, microbatch)
    with torch.no_grad():
        offsets, loss = _offsets(torch.cat([net.embed(part) for part in parts]), targets)
    gradients = []
    for part, cotangent in zip(parts, torch.split(offsets, microbatch), strict=True):
        leaf = part.detach().requires_grad_()
        gradients.append(torch.autograd.grad(net.embed(leaf), leaf, cotangent)[0])
    return loss, torch.cat(gradients)


def _offsets(embedded: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Gradient of the loss for each embedding (g*ipc, f), and the loss."""
    ipc = len(embedded) // len(targets)
    difference = embedded.reshape(len(targets), ipc, -1).mean(dim=1) - targets
    return (difference * (2 / ipc)).repeat_interleave(ipc, dim=0), float(difference.square().sum())


def _groups(problem: Problem, net: Net) -> list[range]:
    """Classes that are embedded together: all of them under batch norm, else as many as make a good batch."""
    classes = len(problem.classes)
    count = classes if _has_batch_norm(net) else max(1, GROUP_IMAGES // problem.ipc)
    return [range(first, min(first + count, classes)) for first in range(0, classes, count)]


def _random_net(problem: Problem, generator: Generator) -> Net:
    """A fresh net, frozen, in train mode."""
    net = build_net(
        problem.arch,
        channels=problem.channels,
        size=problem.size,
        classes=len(problem.classes),
        generator=generator,
    )
    return net.to(problem.device).requires_grad_(False)


def _has_batch_norm(net: Net) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


METHOD = DistributionMatching
