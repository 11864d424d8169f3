"""Dense labels: what a teacher says of 5 x 5 windows of each image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _work import Work
from torch import Tensor
from torch.nn import functional

from ddlabel.distilled import StoredSet
from ddlabel.labels.dense import Dense
from ddlabel.nets._flops import forward_flops
from ddlabel.nets._net import Net, build
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.stages._labelling import label_views
from ddlabel.stages._stage import Clock

PIXELS, CLASSES, KIND, ARCH = 32, 10, Dense(grid=5), "convnet-d3-w128"


def prepare(device: torch.device, images: int, arch: str) -> tuple[StoredSet, Net]:
    """Images of noise and a random net."""
    source = generator(0, "bench")
    net = build(arch, channels=3, size=PIXELS, classes=CLASSES, generator=source).eval().to(device)
    pixels = torch.randint(0, 256, (images, 3, PIXELS, PIXELS), generator=source, dtype=torch.uint8)
    space = Space("normalised", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    names = tuple(str(label) for label in range(CLASSES))
    return StoredSet(pixels, torch.arange(images) % CLASSES, names, space), net


def reference(device: torch.device, images: int, arch: str = ARCH) -> Callable[[], Tensor]:
    """A plain loop over images: cut and resize each window, ask about the windows of an image together."""
    stored, net = prepare(device, images, arch)
    side, offsets = KIND.windows(PIXELS)

    def run() -> Tensor:
        answers = []
        for image in stored.encode().to(device):
            windows = [
                functional.interpolate(
                    image[None, :, top : top + side, left : left + side], size=(PIXELS, PIXELS), mode="bilinear"
                )
                for top in offsets
                for left in offsets
            ]
            with torch.no_grad():
                answers.append(net(torch.cat(windows)).cpu())
        return torch.stack(answers)

    return run


def ours(device: torch.device, images: int, arch: str = ARCH) -> Callable[[], Tensor]:
    """The same as shipped."""
    stored, net = prepare(device, images, arch)
    return lambda: label_views(stored, KIND, [net], Clock(device))


def views(images: int) -> float:
    """Labels of a repetition."""
    return images * KIND.view_count


def flops(images: int) -> float:
    """One pass of each view."""
    return views(images) * forward_flops(ARCH, channels=3, size=PIXELS, classes=CLASSES)


WORKS = (
    Work(
        "dense-labels",
        f"logits of {KIND.view_count} windows of each image, ConvNet-D3 W128, {PIXELS} px",
        {f"{images} images": {"images": images} for images in (10, 100)},
        ours=ours,
        reference=reference,
        flops=flops,
        items=views,
        unit="views",
        repeat=1,
        tiny={"images": 3, "arch": "convnet-d1-w8"},
    ),
)
