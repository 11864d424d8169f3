"""An epoch of an expert on real images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _published_loop import CLASSES, Net, flops_per_image, images_and_labels, make_optimizer, run_epoch
from _work import Work

from ddlabel.augment._augment import build as build_augmentation
from ddlabel.losses.ce import CrossEntropy
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import build
from ddlabel.schedules import Recipe
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.training import minibatches, train

BATCH = 256
SPACE = Space("normalised", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


def ours(device: torch.device, *, images: int) -> Callable[[], object]:
    """Our training loop, from uint8 pixels."""
    keep_freed_memory()
    net = build("convnet-d3", channels=3, size=32, classes=CLASSES, generator=generator(0, "net")).to(device)
    noise, labels = images_and_labels(images)
    pixels = noise.mul(64).add(128).clamp(0, 255).to(torch.uint8)
    sampler = minibatches(pixels, labels, batch=BATCH, space=SPACE, device=device)
    recipe = Recipe(lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=1, batch=BATCH)
    dsa = build_augmentation("dsa")
    return lambda: train(net, sampler, recipe, CrossEntropy(), dsa, seed=0, seed_path=("expert",))


def reference(device: torch.device, *, images: int) -> Callable[[], object]:
    """The published loop, from normalised images."""
    net = Net().to(device)
    optimizer, (pictures, labels) = make_optimizer(net), images_and_labels(images)
    return lambda: run_epoch(net, pictures, labels, batch=BATCH, device=device, optimizer=optimizer)


def flops(*, images: int) -> float:
    """Of forward and backward passes."""
    return images * flops_per_image(training=True)


WORKS = (
    Work(
        name="expert-epoch",
        about="ConvNet-D3 W128, CIFAR-10 shapes, batch 256, DSA: training on so many real images (a tenth of an epoch)",
        sizes={"1,280 images": {"images": 1280}, "2,560 images": {"images": 2560}},
        repeat=1,
        ours=ours,
        reference=reference,
        flops=flops,
        target=1.5,
    ),
)
