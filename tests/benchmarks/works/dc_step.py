"""DC and DSA: one gradient matching of two classes and the step on the images after it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _matching import CLASSES, PIXELS, REAL, PlainNet, Reference, forward, our_steps
from _work import Work
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ddlabel.augment._augment import apply
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distill.dc import GradientMatching
from ddlabel.distill.dsa import SiameseGradientMatching

ABOUT = f"one step of {CLASSES} classes, ConvNet-D3 W128, {PIXELS} px, {REAL} real images per class, one loop"
SIZES = {f"ipc {ipc}": {"ipc": ipc} for ipc in (1, 10)}


def reference_dc(device: torch.device, ipc: int) -> Callable[[], object]:
    """Gradients of whole batches, a graph of all classes until one backward pass."""

    def match(net: PlainNet, real: Tensor, own: Tensor, label: int, _source: Generator) -> Tensor:
        return gradient_distance(net, real, own, label)

    return Reference(device, ipc, match)


def reference_dsa(device: torch.device, ipc: int) -> Callable[[], object]:
    """The same behind one augmentation of both sides."""

    def match(net: PlainNet, real: Tensor, own: Tensor, label: int, source: Generator) -> Tensor:
        steps = build_augmentation("dsa").draw(1, PIXELS, PIXELS, source, siamese=True)
        return gradient_distance(net, apply(real, steps), apply(own, steps), label)

    return Reference(device, ipc, match)


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


def flops(ipc: int) -> float:
    """Forward 1 and backward 2 passes of a real image; 7 of a distilled one, differentiated twice."""
    return forward() * CLASSES * (3 * REAL + 7 * ipc)


WORKS = (
    Work(
        "dc-step",
        ABOUT,
        SIZES,
        ours=lambda device, ipc: our_steps(GradientMatching(outer=1), device, ipc),
        reference=reference_dc,
        flops=flops,
        target=1.5,
    ),
    Work(
        "dsa-step",
        f"{ABOUT}, DSA",
        SIZES,
        ours=lambda device, ipc: our_steps(SiameseGradientMatching(outer=1, init="noise"), device, ipc),
        reference=reference_dsa,
        flops=flops,
        target=1.5,
    ),
)
