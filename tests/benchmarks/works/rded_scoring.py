"""RDED: scoring random crops of one class's images with a trained net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from _work import Work
from torch import Tensor
from torch.nn import functional

from ddlabel.distill._method import Problem
from ddlabel.distill._mosaic import centred
from ddlabel.distill._scoring import Scorer, _InPlace
from ddlabel.distill.rded import Rded
from ddlabel.nets._flops import forward_flops
from ddlabel.nets._net import build, calibrate_norms
from ddlabel.seeding import generator
from ddlabel.space import Space

CROPS, CLASSES = 5, 10


def make_problem(device: torch.device, arch: str, side: int, images: int) -> Problem:
    """One class of noise, and a net that has seen some."""
    source = generator(0, "bench")
    net = build(arch, channels=3, size=side, classes=CLASSES, generator=source)
    calibrate_norms(net, torch.randn(8, 3, side, side, generator=source))
    return Problem(
        pixels=torch.randint(0, 256, (images, 3, side, side), generator=source, dtype=torch.uint8),
        labels=torch.zeros(images, dtype=torch.int64),
        classes=("only",),
        space=Space("normalised", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ipc=1,
        arch=arch,
        flip=True,
        teacher=None,
        device=device,
        seed=0,
        backbones=(net.eval().requires_grad_(False).to(device),),
    )


def reference(device: torch.device, arch: str, side: int, pool: int, images: int) -> Callable[[], Tensor]:
    """The published loop over images, then over crops; rectifiers overwrite their input as in the published nets."""
    problem, method = make_problem(device, arch, side, images), Rded(crops=CROPS, pool=pool)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (problem.space.mean, problem.space.std))
    small = side // method.factor_of(problem)

    def patches(crops: Tensor) -> Tensor:
        image, made = problem.pixels[crops[0, 0]].float() / 255, []
        for _image, top, left, wide in crops.tolist():
            window = image[None, :, top : top + wide, left : left + wide]
            patch = functional.interpolate(window, (small, small), mode="bilinear", align_corners=False, antialias=True)
            made.append((patch[0] - mean) / std)
        return torch.stack(made)

    def run() -> Tensor:
        loaded = torch.stack([patches(crops) for crops in torch.cat(list(method._drawn(problem, 0, 16)))])
        target = torch.zeros(len(loaded), dtype=torch.int64, device=device)
        with torch.no_grad(), _InPlace():
            losses = [
                functional.cross_entropy(
                    problem.backbones[0](centred(loaded[:, crop].to(device), side)), target, reduction="none"
                )
                for crop in range(CROPS)
            ]
        return torch.stack(losses).min(dim=0).values.cpu()

    return run


def ours(device: torch.device, arch: str, side: int, pool: int, images: int) -> Callable[[], Tensor]:
    """The best loss of each image of the pool as shipped, the folding of the net included."""
    problem, method = make_problem(device, arch, side, images), Rded(crops=CROPS, pool=pool)
    return lambda: method._pool(problem, 0, Scorer(problem.backbones, problem.pixels.shape[1:]))[1]


def crops(pool: int, **_rest: object) -> float:
    """Crops of a repetition."""
    return CROPS * pool


def flops(arch: str, side: int, pool: int, **_rest: object) -> float:
    """One pass of each crop."""
    return crops(pool) * forward_flops(arch, channels=3, size=side, classes=CLASSES)


def size(arch: str, side: int, pool: int, images: int | None = None) -> Mapping[str, Any]:
    """Arguments; the class has `images` images, by default as many as the pool."""
    return {"arch": arch, "side": side, "pool": pool, "images": images or pool}


TINY = size("convnet-d1-w8-batch", 16, 6, 8)
rded = partial(
    Work, ours=ours, reference=reference, flops=flops, target=1.5, items=crops, unit="crops", repeat=1, tiny=TINY
)
CONVNET, WIDE = "convnet-d3-w128-batch", "convnet-d5-w64-batch"
WORKS = (
    rded(
        "rded-convnet",
        f"scores {CROPS} crops of each of 300 images of a class, ConvNet-D3 W128, 32 px",
        {"300 of 300": size(CONVNET, 32, 300), "300 of 3,000": size(CONVNET, 32, 300, 3000)},
    ),
    rded(
        "rded-resnet18",
        f"scores {CROPS} crops of each of 300 images of a class, ResNet18, 32 px",
        {"300 of 300": size("resnet18-modified", 32, 300)},
        warm=0,
    ),
    rded(
        "rded-224",
        f"scores {CROPS} crops of each of 12 images of a class in mosaics of four, 224 px",
        {"ConvNet-D5 W64": size(WIDE, 224, 12), "ResNet18": size("resnet18-plain", 224, 12)},
        extra=True,
    ),
)
