"""What matching methods take from real data: first images, augmented batches, and random nets to look through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..augment._augment import Augmentation, Step, apply
from ..nets._net import Net, on_meta
from ..nets._net import build as build_net
from ._method import Problem

__all__ = [
    "RealBatches",
    "class_labels",
    "encoded",
    "first_images",
    "images_per_pass",
    "largest_map",
    "net_on_meta",
    "random_net",
]

CACHED_BYTES = 16 * 2**20
"""Size up to which the largest map of a pass is used while it is still in the cache of a CPU."""
LEAST_PASS = 8
"""Images per pass below which layers cost more than they do."""
MOST_PASS = 256


class RealBatches:
    """Draws real batches, class by class, with the augmentation that both sides share."""

    def __init__(self, problem: Problem, augmentation: Augmentation, batch: int, generator: Generator) -> None:
        self.problem, self.augmentation, self.batch, self.generator = problem, augmentation, batch, generator

    def draw(self, label: int) -> tuple[Tensor, tuple[Step, ...]]:
        """Augmented real images of a class (at most the class, without repetition), and the augmentation."""
        images = self.plain(label, self.batch)
        height, width = images.shape[2:]
        steps = self.augmentation.draw(1, height, width, self.generator, siamese=True)
        return apply(images, steps), steps

    def plain(self, label: int, count: int) -> Tensor:
        """Real images of a class as they are: `count` of them, or the whole class when it is smaller."""
        members = self.problem.members(label)
        chosen = members[torch.randperm(len(members), generator=self.generator)[:count]]
        return encoded(self.problem, chosen)


def encoded(problem: Problem, indices: Tensor) -> Tensor:
    """Real images (m, c, h, w) float32 by index (m,), encoded on the problem's device, so that bytes travel there."""
    pixels = problem.pixels[indices.to(problem.pixels.device)].to(problem.device)
    return problem.space.on(problem.device).encode(pixels)


def class_labels(problem: Problem) -> Tensor:
    """(k*ipc,) int64, class-major, on the CPU."""
    return torch.arange(len(problem.classes)).repeat_interleave(problem.ipc)


def first_images(problem: Problem, init: str, generator: Generator) -> Tensor:
    """Images (k*ipc, c, h, w) to start from: random real ones of each class (`real`) or normal noise (`noise`)."""
    if init == "noise":
        shape = (len(problem.classes) * problem.ipc, *problem.pixels.shape[1:])
        return torch.randn(shape, generator=generator).to(problem.device)
    chosen = [
        members[torch.randperm(len(members), generator=generator)[: problem.ipc]]
        for members in map(problem.members, range(len(problem.classes)))
    ]
    return encoded(problem, torch.cat(chosen))


def random_net(problem: Problem, generator: Generator) -> Net:
    """A fresh net of the problem's kind on its device, in train mode as the authors have it."""
    net = build_net(
        problem.arch,
        channels=problem.pixels.shape[1],
        size=problem.pixels.shape[2],
        classes=len(problem.classes),
        generator=generator,
    )
    return net.to(problem.device)


def net_on_meta(problem: Problem) -> Net:
    """The problem's net without storage."""
    channels, size = problem.pixels.shape[1:3]
    return on_meta(problem.arch, channels=channels, size=size, classes=len(problem.classes))


def images_per_pass(problem: Problem) -> int:
    """Images that go through the net at once where the number is free.

    On the CPU as many as keep the largest map in the cache, by a fixed rule so that results do not depend on the
    machine; elsewhere 256.
    """
    if problem.device.type != "cpu":
        return MOST_PASS
    return max(LEAST_PASS, min(MOST_PASS, CACHED_BYTES // (4 * largest_map(problem))))


def largest_map(problem: Problem) -> int:
    """Numbers in the largest map of one image in the problem's net."""
    net = net_on_meta(problem)
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):  # attention also gives its weights, or None
            sizes.append(output.numel())

    for module in net.modules():
        module.register_forward_hook(note)
    net(torch.empty(1, *problem.pixels.shape[1:], device="meta"))
    return max(sizes)
