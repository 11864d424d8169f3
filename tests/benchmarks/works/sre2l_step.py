"""SRe2L: one step on a batch of images that are recovered from a net's batch norm statistics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from _work import Work
from torch import Tensor, nn
from torch.nn import functional

from ddlabel.distill._method import Problem
from ddlabel.distill._recover import BETAS, rolled
from ddlabel.distill.sre2l import SqueezeRecover
from ddlabel.nets._flops import forward_flops
from ddlabel.nets._net import build, calibrate_norms
from ddlabel.seeding import generator
from ddlabel.space import Space

PIXELS, BATCH, ARCH = 32, 100, "resnet18-modified"
STEPS, RATE, WEIGHT, FIRST, ROLL = 1000, 0.25, 0.01, 10.0, 4
"""As published for CIFAR-100: Adam's steps and first step size, weight of R_bn and of its first layer, pixels."""


def make_problem(device: torch.device, batch: int, arch: str) -> Problem:
    """One image of each class, and a net that has seen noise."""
    source = generator(0, "bench")
    net = build(arch, channels=3, size=PIXELS, classes=batch, generator=source)
    calibrate_norms(net, torch.randn(16, 3, PIXELS, PIXELS, generator=source))
    return Problem(
        pixels=torch.zeros(batch, 3, PIXELS, PIXELS, dtype=torch.uint8),
        labels=torch.arange(batch),
        classes=tuple(str(label) for label in range(batch)),
        space=Space("normalised", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ipc=1,
        arch=arch,
        flip=True,
        teacher=None,
        device=device,
        seed=0,
        backbones=(net.eval().requires_grad_(False).to(device),),
    )


class BatchNormHook:
    """The distance of what a batch norm sees from its running statistics, by torch's own reductions."""

    def __init__(self, module: nn.BatchNorm2d) -> None:
        self.module, self.distance = module, torch.zeros(())
        module.register_forward_pre_hook(self.note)

    def note(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep the distance of this pass."""
        mean = inputs[0].mean([0, 2, 3])
        var = inputs[0].permute(1, 0, 2, 3).contiguous().view(inputs[0].shape[1], -1).var(1, unbiased=False)
        wanted_mean, wanted_var = self.module.running_mean, self.module.running_var
        if wanted_mean is None or wanted_var is None:
            raise ValueError("a batch norm without running statistics")
        self.distance = torch.norm(wanted_var - var, 2) + torch.norm(wanted_mean - mean, 2)


def reference(device: torch.device, batch: int, arch: str = ARCH) -> Callable[[], Tensor]:
    """The published loop: torch's Adam, hooks on batch norms, weights without gradients as it has them."""
    problem = make_problem(device, batch, arch)
    net, labels = problem.backbones[0], problem.labels.to(device)
    hooks = [BatchNormHook(module) for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    images = torch.randn(batch, 3, PIXELS, PIXELS, generator=generator(0, "step", 0)).to(device).requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=RATE, betas=BETAS, eps=1e-8)
    box = torch.stack([problem.space.encode(torch.full((1, 3, 1, 1), level, dtype=torch.uint8)) for level in (0, 255)])
    numbers = itertools.count()

    def step() -> Tensor:
        number = next(numbers)
        source = generator(0, "step", number)
        if number == 0:  # the noise that ours begins with
            torch.randn(batch, 3, PIXELS, PIXELS, generator=source)
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * RATE * (1 + math.cos(math.pi * number / STEPS))
        optimizer.zero_grad()
        seen = rolled(images, 0, ROLL, source)
        loss = functional.cross_entropy(net(seen), labels)
        weights = [FIRST, *[1.0] * (len(hooks) - 1)]
        r_bn = sum(weight * hook.distance for weight, hook in zip(weights, hooks, strict=True))
        (loss + WEIGHT * r_bn).backward()
        optimizer.step()
        with torch.no_grad():
            low, high = box.to(device)
            images.copy_(torch.minimum(torch.maximum(images, low), high))
        moment: Tensor = optimizer.state[images]["exp_avg"]
        return moment

    return step


def ours(device: torch.device, batch: int, arch: str = ARCH) -> Callable[[], Tensor]:
    """Steps as shipped, with the same noise and shifts; gives Adam's mean of gradients, as the reference does."""
    problem, method = make_problem(device, batch, arch), SqueezeRecover(batch=batch)
    state = method.prepare(problem, generator(0, "start"))
    numbers = itertools.count()

    def step() -> Tensor:
        nonlocal state
        number = next(numbers)
        state, _metrics = method.step(problem, state, number, generator(0, "step", number))
        return state["gradient_mean"]

    return step


def flops(batch: int) -> float:
    """Forward, and backward to the images alone."""
    return 2 * batch * forward_flops(ARCH, channels=3, size=PIXELS, classes=BATCH)


WORKS = (
    Work(
        "sre2l-step",
        f"one recovery step of 100 images, ResNet18, {PIXELS} px",
        {"100 images": {"batch": BATCH}},
        ours=ours,
        reference=reference,
        flops=flops,
        target=1.2,
        repeat=1,
        tiny={"batch": 3, "arch": "convnet-d1-w8-batch"},
    ),
)
