"""A pass over test images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _published_loop import CLASSES, Net, flops_per_image, images_and_labels, run_epoch
from _work import Work

from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import build
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.training import accuracy

BATCH = 256
SPACE = Space("normalised", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


def ours(device: torch.device, *, images: int) -> Callable[[], object]:
    """Our score, from uint8 pixels."""
    keep_freed_memory()
    net = build("convnet-d3", channels=3, size=32, classes=CLASSES, generator=generator(0, "net")).to(device)
    noise, labels = images_and_labels(images)
    pixels = noise.mul(64).add(128).clamp(0, 255).to(torch.uint8)
    return lambda: accuracy(net, pixels, labels, space=SPACE)


def reference(device: torch.device, *, images: int) -> Callable[[], object]:
    """The published test function, which leaves gradients on, from normalised images."""
    net, (pictures, labels) = Net().to(device), images_and_labels(images)
    return lambda: run_epoch(net, pictures, labels, batch=BATCH, device=device)


def flops(*, images: int) -> float:
    """Of forward passes."""
    return images * flops_per_image(training=False)


WORKS = (
    Work(
        name="test-pass",
        about="ConvNet-D3 W128, CIFAR-10 shapes: accuracy on so many test images; the published code keeps gradients",
        sizes={"2,560 images": {"images": 2560}, "5,120 images": {"images": 5120}},
        repeat=1,
        ours=ours,
        reference=reference,
        flops=flops,
        target=1.6,
    ),
)
