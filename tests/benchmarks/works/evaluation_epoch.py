"""An epoch of students on a few distilled images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _published_loop import CLASSES, Net, flops_per_image, images_and_labels, make_optimizer, run_epoch
from _work import Work

from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distilled import DistilledSet
from ddlabel.losses.ce import CrossEntropy
from ddlabel.memory import keep_freed_memory
from ddlabel.nets._net import build
from ddlabel.schedules import Recipe
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.students import StudentData, make_sampler
from ddlabel.training import train

BATCH = 256
SPACE = Space("normalised", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


def ours(device: torch.device, *, images: int, seeds: int, epochs: int) -> Callable[[], object]:
    """Our training loop, one student after the other."""
    keep_freed_memory()
    pictures, labels = images_and_labels(images)
    data = StudentData(DistilledSet(pictures, labels, tuple(map(str, range(CLASSES))), SPACE), None)
    recipe = Recipe(lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=epochs, batch=BATCH)
    shape = {"channels": 3, "size": 32, "classes": CLASSES}
    nets = [build("convnet-d3", **shape, generator=generator(seed, "net")).to(device) for seed in range(seeds)]
    dsa = build_augmentation("dsa")

    def once() -> None:
        for seed, net in enumerate(nets):
            sampler = make_sampler(data, batch=BATCH, estimator="views", seed=seed)
            train(net, sampler, recipe, CrossEntropy(), dsa, seed=seed, seed_path=("student",))

    return once


def reference(device: torch.device, *, images: int, seeds: int, epochs: int) -> Callable[[], object]:
    """The published loop, one student after the other."""
    pictures, labels = images_and_labels(images)
    nets = [Net().to(device) for _seed in range(seeds)]
    optimizers = [make_optimizer(net) for net in nets]

    def once() -> None:
        for net, optimizer in zip(nets, optimizers, strict=True):
            for _epoch in range(epochs):
                run_epoch(net, pictures, labels, batch=BATCH, device=device, optimizer=optimizer)

    return once


def flops(*, images: int, seeds: int, epochs: int) -> float:
    """Of forward and backward passes."""
    return images * seeds * epochs * flops_per_image(training=True)


WORKS = (
    Work(
        name="evaluation-epoch",
        about="ConvNet-D3 W128, CIFAR-10 shapes, batch 256, DSA: epochs of students on all distilled images",
        sizes={
            "10 images, 1 seed, 30 epochs": {"images": 10, "seeds": 1, "epochs": 30},
            "10 images, 5 seeds, 6 epochs": {"images": 10, "seeds": 5, "epochs": 6},
            "100 images, 1 seed, 6 epochs": {"images": 100, "seeds": 1, "epochs": 6},
            "100 images, 5 seeds, 1 epoch": {"images": 100, "seeds": 5, "epochs": 1},
            "500 images, 1 seed, 2 epochs": {"images": 500, "seeds": 1, "epochs": 2},
            "500 images, 5 seeds, 1 epoch": {"images": 500, "seeds": 5, "epochs": 1},
        },
        ours=ours,
        reference=reference,
        flops=flops,
        target=1.5,
    ),
)
