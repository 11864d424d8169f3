"""DM: distribution matching (Zhao & Bilen, WACV 2023, arXiv:2110.04181)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from .. import seeding
from ..augment._augment import Step, apply
from ..augment._augment import build as build_augmentation
from ..errors import UsageError
from ..nets._net import Net
from ..options import opt
from ._method import Distilled, Problem, State
from ._real import RealBatches, class_labels, first_images, has_batch_norm, random_net

__all__ = ["METHOD", "match_means"]

LARGE_SET = {10: 50, 100: 125}
"""Largest ipc, by number of classes, at which the published learning rate is 1 rather than 10."""
REAL_CHUNK = 32
"""Real images in one forward pass on the CPU: their maps stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class DistributionMatching:
    """Each step draws a new random net and moves the images so that class means of its embeddings agree.

    Loss: sum over classes of the squared distance of the mean embeddings of augmented real and distilled images,
    summed (not averaged) over features. The reported loss is divided by the number of classes.

    Differs from the authors' code in: exact micro-batching instead of stepping inside the class loop; explicit seeds;
    the loop has `steps` steps where theirs has one more.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    steps: int = opt(20_000, "optimisation steps, each with a new random net", min=1, max=100_000_000)
    lr_images: float | None = opt(
        None, "SGD step on images in model-input space; auto is 1, or 10 for large sets as published", above=0
    )
    momentum: float = opt(0.5, "momentum of the images' SGD", min=0, below=1)
    batch_real: int = opt(256, "real images per class and step, at most the class", min=1, max=1_000_000)
    init: str = opt("real", "initial images: random real ones, or normal noise", choices=("real", "noise"))
    augment: str = opt("dsa", "augmentation, the same draw for real and distilled images", choices=("dsa", "none"))
    microbatch: int | None = opt(None, "distilled images per backward pass; auto takes a class at once", min=1)

    def total_steps(self, problem: Problem) -> int:
        """The option `steps`."""
        del problem
        return self.steps

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Initial images (k*ipc, c, h, w) and a zero momentum buffer.

        Raises:
            UsageError: `microbatch` with a net whose batch norm couples the images of a batch.
        """
        if self.microbatch is not None:
            self._check_microbatch(problem)
        images = first_images(problem, self.init, generator)
        return problem.canvas.begin(images, class_labels(problem), generator)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """One SGD step on all images; every class adds its own gradient first."""
        del index
        net = random_net(problem, generator).requires_grad_(False)
        batches = RealBatches(problem, build_augmentation(self.augment, flip=problem.flip), self.batch_real, generator)
        images = problem.canvas.render(state)
        if has_batch_norm(net):
            loss, gradient = self._match_jointly(problem, net, images, batches)
        else:
            loss, gradient = self._match_by_class(problem, net, images, batches)
        moved = problem.canvas.descend(state, gradient, lr=self._rate(problem), momentum=self.momentum)
        return {**state, **moved}, {"loss": loss / len(problem.classes)}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The optimised images."""
        return Distilled(
            labels=class_labels(problem),
            images=problem.canvas.render(state).cpu(),
            metrics={"lr_images": self._rate(problem)},
        )

    def _check_microbatch(self, problem: Problem) -> None:
        net = random_net(problem, seeding.generator(problem.seed, "distill", "probe"))
        if has_batch_norm(net):
            raise UsageError(
                f"option 'microbatch' is {self.microbatch}, net '{problem.arch}' has batch norm and needs all images",
                field="microbatch",
                hint="drop it, or use instance norm",
            )

    def _rate(self, problem: Problem) -> float:
        if self.lr_images is not None:
            return self.lr_images
        limit = LARGE_SET.get(len(problem.classes), LARGE_SET[10])
        return 1.0 if problem.ipc <= limit else 10.0

    def _match_by_class(self, problem: Problem, net: Net, images: Tensor, batches: RealBatches) -> tuple[float, Tensor]:
        gradient = torch.empty_like(images)
        total = 0.0
        chunk = REAL_CHUNK if images.device.type == "cpu" else self.batch_real
        for label in range(len(problem.classes)):
            real, steps = batches.draw(label)
            with torch.no_grad():
                target = torch.cat([net.embed(part) for part in torch.split(real, chunk)]).mean(dim=0)
            rows = slice(label * problem.ipc, (label + 1) * problem.ipc)
            loss, gradient[rows] = match_means(net, images[rows], steps, target, self.microbatch)
            total += loss
        return total, gradient

    def _match_jointly(self, problem: Problem, net: Net, images: Tensor, batches: RealBatches) -> tuple[float, Tensor]:
        """One forward pass per side, so that batch norm sees all classes."""
        draws = [batches.draw(label) for label in range(len(problem.classes))]
        with torch.no_grad():
            features = net.embed(torch.cat([real for real, _steps in draws]))
            targets = [part.mean(dim=0) for part in torch.split(features, [len(real) for real, _steps in draws])]
        leaf = images.detach().requires_grad_(True)
        augmented = [
            apply(part, steps) for part, (_real, steps) in zip(torch.split(leaf, problem.ipc), draws, strict=True)
        ]
        means = net.embed(torch.cat(augmented)).reshape(len(draws), problem.ipc, -1).mean(dim=1)
        loss = (means - torch.stack(targets)).square().sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), gradient


def match_means(
    net: Net, images: Tensor, steps: tuple[Step, ...], target: Tensor, microbatch: int | None = None
) -> tuple[float, Tensor]:
    """Squared distance of a mean embedding from a target, and its gradient.

    Args:
        net: frozen; its norms must not mix samples.
        images: (m, c, h, w) distilled images of one class.
        steps: the augmentation, shared by all samples.
        target: (f,) mean embedding of real images.
        microbatch: images per backward pass. The first pass takes the mean without a graph, the second one
            back-propagates the constant 2 (mean - target) / m through each part: the same gradient in less memory.

    Returns:
        The loss, summed over features, and d loss / d images, (m, c, h, w).
    """
    count = len(images)
    if microbatch is None or microbatch >= count:
        leaf = images.detach().requires_grad_(True)
        loss = (net.embed(apply(leaf, steps)).mean(dim=0) - target).square().sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), gradient
    parts = torch.split(images.detach(), microbatch)
    with torch.no_grad():
        total = torch.stack([net.embed(apply(part, steps)).sum(dim=0) for part in parts]).sum(dim=0)
    difference = total / count - target
    gradients: list[Tensor] = []
    for part in parts:
        leaf = part.requires_grad_(True)
        features = net.embed(apply(leaf, steps))
        gradients += torch.autograd.grad(features, leaf, (2 / count * difference).expand_as(features))
    return float(difference.square().sum()), torch.cat(gradients)


METHOD = DistributionMatching
