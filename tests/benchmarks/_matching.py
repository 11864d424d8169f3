"""What the works of matching methods share: a problem of noise, the net as published, and useful FLOPs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ddlabel.distill._method import Method, Problem
from ddlabel.distill._real import encoded
from ddlabel.nets._flops import forward_flops
from ddlabel.nets._net import build as build_net
from ddlabel.nets.convnet import ConvNet
from ddlabel.seeding import generator
from ddlabel.space import Space

PIXELS, CLASSES, REAL, WIDTH = 32, 2, 256, 128
TINY = {"ipc": 2, "real": 6, "width": 4}
"""A size for tests."""


def make_problem(device: torch.device, ipc: int, real: int, width: int) -> Problem:
    """Two classes of noise, with some more images than a batch takes."""
    count = CLASSES * (real + 50)
    return Problem(
        pixels=torch.randint(0, 256, (count, 3, PIXELS, PIXELS), generator=generator(0, "bench"), dtype=torch.uint8),
        labels=torch.arange(count) % CLASSES,
        classes=tuple(str(label) for label in range(CLASSES)),
        space=Space("normalised", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ipc=ipc,
        arch=arch_of(width),
        flip=True,
        teacher=None,
        device=device,
        seed=0,
    )


Match = Callable[["PlainNet", Tensor, Tensor, int, Generator], Tensor]
"""What a reference compares of one class: net, real images, distilled images, label, source of the augmentation."""


class PlainNet(torch.nn.Module):
    """The net as published: activations in place, torch's own pooling, random parameters as ours has them."""

    def __init__(self, width: int, source: Generator) -> None:
        super().__init__()
        net = build_net(arch_of(width), channels=3, size=PIXELS, classes=CLASSES, generator=source)
        if not isinstance(net, ConvNet):
            raise TypeError(f"expected a ConvNet, not {type(net).__name__}")
        self.blocks, self.classifier = net.blocks, net.classifier

    def embed(self, images: Tensor) -> Tensor:
        block: Any
        for block in self.blocks:
            images = functional.avg_pool2d(functional.relu(block.norm(block.conv(images)), inplace=True), 2)
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.embed(images))
        return logits


class Reference:
    """The authors' outer loop: one loss over all classes, one backward pass, torch's SGD on the images."""

    def __init__(self, match: Match, device: torch.device, ipc: int, real: int = REAL, width: int = WIDTH) -> None:
        problem = make_problem(device, ipc, real, width)
        self.device, self.ipc, self.count, self.width, self.match = device, ipc, real, width, match
        self.real, self.labels = encoded(problem, torch.arange(len(problem.labels))), problem.labels
        shape = (CLASSES * ipc, 3, PIXELS, PIXELS)
        self.images = torch.randn(shape, generator=generator(0, "start")).to(device).requires_grad_(True)
        self.start = self.images.detach().clone()
        self.optimizer = torch.optim.SGD([self.images], lr=0.1, momentum=0.5)
        self.steps = itertools.count()

    def __call__(self) -> Tensor:
        """A step with a new net: what the images moved since the start."""
        source = generator(0, "step", next(self.steps))
        net = PlainNet(self.width, source).to(self.device)
        loss = torch.zeros((), device=self.device)
        for label in range(CLASSES):
            members = (self.labels == label).nonzero().flatten()
            real = self.real[members[torch.randperm(len(members), generator=source)[: self.count]].to(self.device)]
            own = self.images[label * self.ipc : (label + 1) * self.ipc]
            loss = loss + self.match(net, real, own, label, source)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return self.images.detach() - self.start


def our_steps(
    method: Method, device: torch.device, ipc: int, real: int = REAL, width: int = WIDTH
) -> Callable[[], Tensor]:
    """Steps of a method as shipped, with the random numbers of the reference's."""
    problem = make_problem(device, ipc, real, width)
    state = method.prepare(problem, generator(0, "start"))
    start = problem.canvas.render(state)
    steps = itertools.count()

    def step() -> Tensor:
        nonlocal state
        index = next(steps)
        state, _metrics = method.step(problem, state, index, generator(0, "step", index))
        return problem.canvas.render(state) - start

    return step


def arch_of(width: int) -> str:
    """The net's name."""
    return f"convnet-d3-w{width}-instance"


def forward() -> int:
    """FLOPs of the net for one image."""
    return forward_flops(arch_of(WIDTH), channels=3, size=PIXELS, classes=CLASSES)
