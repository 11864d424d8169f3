"""MTT and PAD: the gradient of an iteration through N student steps of b images each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from _work import Work
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddlabel.augment._augment import Step, apply
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.distill import _unroll
from ddlabel.distill._student import Privileged
from ddlabel.distill._unroll import Unrolled, Waypoint, match
from ddlabel.nets._flops import forward_flops
from ddlabel.nets._net import Net, build
from ddlabel.privileged._form import LAST, make_form
from ddlabel.privileged._objective import Objective

PIXELS, CLASSES, WIDTH, LR = 32, 10, 128, 0.01
ABOUT = f"gradient through N student steps of b images, ConvNet-D3 W128, {PIXELS} px, DSA: MTT, PAD and others"


def sizes(batch: int, *counts: int) -> Mapping[str, Mapping[str, Any]]:
    """Numbers of steps of one batch: memory should not grow with them."""
    return {f"N={steps} b={batch}": {"steps": steps, "batch": batch} for steps in counts}


class Iteration:
    """Where both sides start: student, expert after its epochs, images, and an augmentation for each step."""

    def __init__(self, device: torch.device, steps: int, batch: int, width: int) -> None:
        source = torch.Generator().manual_seed(0)
        self.arch = f"convnet-d3-w{width}"
        self.net: Net = build(self.arch, channels=3, size=PIXELS, classes=CLASSES, generator=source).to(device)
        self.start = torch.cat([parameter.detach().reshape(-1) for parameter in self.net.parameters()])
        self.expert = self.start + 0.01 * torch.randn(len(self.start), generator=source).to(device)
        self.images = torch.randn(batch, 3, PIXELS, PIXELS, generator=source).to(device)
        self.labels = (torch.arange(batch) % CLASSES).to(device)
        augmentation = build_augmentation("dsa")
        self.draws = [augmentation.draw(batch, PIXELS, PIXELS, source) for _step in range(steps)]


def reference(device: torch.device, steps: int, batch: int, width: int = WIDTH) -> Callable[[], Tensor]:
    """The published loop: the graphs of all steps are kept, and differentiated once."""
    iteration = Iteration(device, steps, batch, width)

    def run(draws: list[tuple[Step, ...]]) -> Tensor:
        images = iteration.images.clone().requires_grad_(True)
        lr = torch.tensor(LR, device=device, requires_grad=True)
        shapes = {name: parameter.shape for name, parameter in iteration.net.named_parameters()}
        start = iteration.start
        reached = start.clone().requires_grad_(True)
        for drawn in draws:
            pieces = reached.split([shape.numel() for shape in shapes.values()])
            named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
            loss = cross_entropy(functional_call(iteration.net, named, (apply(images, drawn),)), iteration.labels)
            (gradient,) = torch.autograd.grad(loss, reached, create_graph=True)
            reached = reached - lr * gradient
        distance = (reached - iteration.expert).square().sum() / (start - iteration.expert).square().sum()
        return torch.autograd.grad(distance, (images, lr))[0]

    run(iteration.draws[:1])
    return lambda: run(iteration.draws)


def ours(
    device: torch.device, steps: int, batch: int, width: int = WIDTH, mode: str = "adjoint", part: int | None = None
) -> Callable[[], Tensor]:
    """The same gradient as shipped.

    Args:
        device, steps, batch, width: of the iteration.
        mode: `adjoint`, by hand; `automatic`, the adjoint by differentiating twice; `tesla`; or `features`, the adjoint
            with features as labels.
        part: images per graph; None is the package's choice.
    """
    iteration = Iteration(device, steps, batch, width)
    privileged = feature_labels(iteration) if mode == "features" else None
    if mode == "automatic":
        _unroll.fits = lambda net: False  # type: ignore[attr-defined]

    def run(draws: list[tuple[Step, ...]]) -> Tensor:
        unrolled = Unrolled(
            net=iteration.net,
            images=iteration.images,
            labels=iteration.labels,
            logits=None,
            start=iteration.start,
            waypoints=(Waypoint(len(draws), iteration.expert),),
            lr=LR,
            batches=(torch.arange(batch),) * len(draws),
            draws=tuple(draws),
            microbatch=part,
            privileged=privileged,
        )
        return match(unrolled, "tesla" if mode == "tesla" else "adjoint").images

    run(iteration.draws[:1])
    return lambda: run(iteration.draws)


def feature_labels(iteration: Iteration) -> Privileged:
    """Whole features of the last block, as labels in every step."""
    form = make_form(iteration.arch, channels=3, size=PIXELS, classes=CLASSES, layer=LAST, attention=None, pool="avg")
    with torch.no_grad():
        features = iteration.net.tap(iteration.images, form.layer)[0]
    return Privileged(labels=features, hard=iteration.labels, form=form, objective=Objective())


def flops(steps: int, batch: int, mode: str = "adjoint", part: int | None = None) -> float:
    """Nine passes of each image and step: 3 forward and back, 6 to differentiate both.

    TESLA is counted alike. Ours computes more: 11 by hand, 12 by differentiating twice.
    """
    del mode, part
    return 9 * steps * batch * forward_flops(f"convnet-d3-w{WIDTH}", channels=3, size=PIXELS, classes=CLASSES)


TINY = {"steps": 2, "batch": 3, "width": 4}
iteration = partial(
    Work, about=ABOUT, ours=ours, reference=reference, flops=flops, target=1.3, repeat=1, warm=0, tiny=TINY
)
WORKS = (
    iteration("mtt-iteration", sizes=sizes(10, 10, 50)),
    iteration("mtt-large", sizes=sizes(100, 10, 20), rounds=2),
    Work(
        "mtt-variants",
        "the same 20 steps of 100 images other ways, and 50 steps of them; no reference",
        {mode: {"steps": 20, "batch": 100, "mode": mode} for mode in ("adjoint", "automatic", "tesla", "features")}
        | {"N=50": {"steps": 50, "batch": 100}},
        ours=ours,
        flops=flops,
        repeat=1,
        warm=0,
        extra=True,
        tiny={**TINY, "mode": "features"},
    ),
)
