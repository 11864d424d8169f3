"""DM: one step that matches the mean embeddings of two classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from _matching import CLASSES, PIXELS, REAL, TINY, WIDTH, PlainNet, Reference, forward, our_steps
from _work import Work
from torch import Generator, Tensor

from ddlabel.augment._augment import apply
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distill.dm import DistributionMatching


def match_means(net: PlainNet, real: Tensor, own: Tensor, _label: int, source: Generator) -> Tensor:
    """Whole batches through a frozen net, as published, with a graph of both sides until the real one is detached."""
    net.requires_grad_(False)
    steps = build_augmentation("dsa").draw(1, PIXELS, PIXELS, source, siamese=True)
    wanted = net.embed(apply(real, steps)).detach().mean(dim=0)
    return (net.embed(apply(own, steps)).mean(dim=0) - wanted).square().sum()


def ours(device: torch.device, ipc: int, real: int = REAL, width: int = WIDTH) -> Callable[[], Tensor]:
    """Steps as shipped, from the reference's noise and with its step size."""
    method = DistributionMatching(batch_real=real, init="noise", lr_images=0.1)
    return our_steps(method, device, ipc, real, width)


def flops(ipc: int) -> float:
    """Forward passes of real images; forward and backward ones of distilled images, with no gradient of weights."""
    return forward() * CLASSES * (REAL + 2 * ipc)


WORKS = (
    Work(
        "dm-step",
        f"one step of {CLASSES} classes, ConvNet-D3 W128, {PIXELS} px, {REAL} real images per class, DSA",
        {f"ipc {ipc}": {"ipc": ipc} for ipc in (1, 10, 50)},
        ours=ours,
        reference=partial(Reference, match_means),
        flops=flops,
        target=1.5,
        repeat=1,
        tiny=TINY,
    ),
)
