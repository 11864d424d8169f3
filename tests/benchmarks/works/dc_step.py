"""DC and DSA: one gradient matching of two classes and the step on the images after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from _matching import CLASSES, PIXELS, REAL, TINY, WIDTH, PlainNet, Reference, forward, our_steps
from _work import Work
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ddlabel.augment._augment import apply
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distill.dc import GradientMatching
from ddlabel.distill.dsa import SiameseGradientMatching

ABOUT = f"one step of {CLASSES} classes, ConvNet-D3 W128, {PIXELS} px, {REAL} real images per class, one loop"
SIZES = {f"ipc {ipc}": {"ipc": ipc} for ipc in (1, 10)}


def match_gradients(net: PlainNet, real: Tensor, own: Tensor, label: int, _source: Generator) -> Tensor:
    """DC: gradients of whole batches, a graph of all classes until one backward pass."""
    return gradient_distance(net, real, own, label)


def match_augmented(net: PlainNet, real: Tensor, own: Tensor, label: int, source: Generator) -> Tensor:
    """DSA: the same behind one augmentation of both sides."""
    steps = build_augmentation("dsa").draw(1, PIXELS, PIXELS, source, siamese=True)
    return gradient_distance(net, apply(real, steps), apply(own, steps), label)


def gradient_distance(net: PlainNet, real: Tensor, own: Tensor, label: int) -> Tensor:
    """1 - cosine of the rows of weights, summed."""
    parameters = list(net.parameters())
    losses = [
        cross_entropy(net(images), torch.full((len(images),), label, device=own.device)) for images in (real, own)
    ]
    wanted = [tensor.detach().clone() for tensor in torch.autograd.grad(losses[0], parameters)]
    given = torch.autograd.grad(losses[1], parameters, create_graph=True)
    total = torch.zeros((), device=own.device)
    for a, b in zip(given, wanted, strict=True):
        if a.ndim > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


def our_dc(device: torch.device, ipc: int, real: int = REAL, width: int = WIDTH) -> Callable[[], Tensor]:
    """One loop of a step as shipped."""
    return our_steps(GradientMatching(outer=1, batch_real=real), device, ipc, real, width)


def our_dsa(device: torch.device, ipc: int, real: int = REAL, width: int = WIDTH) -> Callable[[], Tensor]:
    """The same from the reference's noise."""
    method = SiameseGradientMatching(outer=1, batch_real=real, init="noise")
    return our_steps(method, device, ipc, real, width)


def flops(ipc: int) -> float:
    """Forward 1 and backward 2 passes of a real image; 7 of a distilled one, differentiated twice."""
    return forward() * CLASSES * (3 * REAL + 7 * ipc)


WORKS = (
    Work(
        "dc-step",
        ABOUT,
        SIZES,
        ours=our_dc,
        reference=partial(Reference, match_gradients),
        flops=flops,
        target=1.5,
        repeat=1,
        tiny=TINY,
    ),
    Work(
        "dsa-step",
        f"{ABOUT}, DSA",
        SIZES,
        ours=our_dsa,
        reference=partial(Reference, match_augmented),
        flops=flops,
        target=1.5,
        repeat=1,
        tiny=TINY,
    ),
)
