"""What matching methods take from real data: first images, augmented batches, and random nets to look through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..augment._augment import Augmentation, Step, apply
from ..errors import ResourceError
from ..nets._net import Net, on_meta
from ..nets._net import build as build_net
from ..team import Team, bits
from ._method import Problem

__all__ = [
    "RealBatches",
    "class_labels",
    "encoded",
    "first_images",
    "images_per_pass",
    "largest_map",
    "match_by_class",
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
        chosen, steps = self.skip(label)
        return apply(encoded(self.problem, chosen), steps), steps

    def skip(self, label: int) -> tuple[Tensor, tuple[Step, ...]]:
        """Which images (m,) of a class `draw` gives, and the augmentation: all that it takes from the generator."""
        chosen = self._chosen(label, self.batch)
        height, width = self.problem.pixels.shape[2:]
        return chosen, self.augmentation.draw(1, height, width, self.generator, siamese=True)

    def plain(self, label: int, count: int) -> Tensor:
        """Real images of a class as they are: `count` of them, or the whole class when it is smaller."""
        return encoded(self.problem, self._chosen(label, count))

    def _chosen(self, label: int, count: int) -> Tensor:
        members = self.problem.members(label)
        return members[torch.randperm(len(members), generator=self.generator)[:count]]


Match = Callable[[int, Tensor, tuple[Step, ...], Tensor], tuple[float, Tensor]]
"""Of a class its label, augmented real images, the augmentation and the distilled images (ipc, c, h, w): the distance
and its gradient by those."""


def match_by_class(batches: RealBatches, images: Tensor, match: Match, net: nn.Module) -> tuple[float, Tensor]:
    """The sum of the distances of all classes, and its gradient by the distilled images (k*ipc, c, h, w).

    Of several processes each matches its share of the classes; all draw the same numbers and get the same result.

    Args:
        batches: draws the real images.
        images: the distilled ones, alike in all processes.
        match: compares those of one class.
        net: what it looks through, alike in all processes.

    Raises:
        ResourceError: processes are no longer alike, or one is gone.
    """
    problem = batches.problem
    known = _fingerprint(batches, images, net) if problem.team.size > 1 else 0
    count = len(problem.classes)
    ours = problem.team.mine(range(count))
    gradient = torch.zeros_like(images)
    losses = torch.zeros(count, dtype=torch.float64)
    for label in range(count):
        if label not in ours:
            batches.skip(label)
            continue
        real, steps = batches.draw(label)
        rows = slice(label * problem.ipc, (label + 1) * problem.ipc)
        losses[label], gradient[rows] = match(label, real, steps, images[rows])
    total = 0.0
    for loss in _merge_of_the_alike(problem.team, losses, known).tolist():
        total += loss
    return total, problem.team.merge(gradient)


def _fingerprint(batches: RealBatches, images: Tensor, net: nn.Module) -> int:
    """Of all that must be alike: the random numbers and, on the CPU, images and net; 64 bits of a sha256.

    On CUDA the passes through a net and a generator add up in no fixed order, so that processes differ by rounding.
    """
    digest = hashlib.sha256(batches.generator.get_state().numpy().data)
    if batches.problem.device.type == "cpu":
        for tensor in (images, *net.state_dict().values()):
            digest.update(tensor.detach().contiguous().numpy().data)
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def _merge_of_the_alike(team: Team, losses: Tensor, known: int) -> Tensor:
    """Losses (k,) float64 of all processes, once all know that they work on the same.

    Raises:
        ResourceError: they do not, which on machines of one kind cannot happen.
    """
    if team.size == 1:
        return losses
    marks = torch.zeros(team.size, dtype=torch.int64)
    marks[team.rank] = known
    merged = team.merge(torch.cat([bits(losses), marks]))
    others = [rank for rank, mark in enumerate(merged[len(losses) :].tolist()) if mark != merged[len(losses)]]
    if others:
        raise ResourceError(
            f"process {others[0]} has other images, nets or random numbers than process 0, expected the same bits",
            field="processes",
            hint="use machines of one kind with one version of torch and one number of threads",
        )
    return merged[: len(losses)].view(losses.dtype)


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
