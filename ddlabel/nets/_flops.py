"""Floating point operations of a net, by the rule of LADD's figures (arXiv:2409.16239): conv and linear layers only."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from ._net import on_meta

__all__ = ["TRAINING_STEP", "forward_flops"]

TRAINING_STEP = 3
"""Forward passes that a training step costs: one forward, two for the backward pass."""


@lru_cache(maxsize=64)
def forward_flops(arch: str, *, channels: int, size: int, classes: int) -> int:
    """FLOPs of one forward pass of one image; a multiply-add counts as 2, bias, norm, activation and pooling as 0.

    >>> forward_flops("convnet-d3", channels=3, size=32, classes=10)
    101490688
    """
    net = on_meta(arch, channels=channels, size=size, classes=classes).eval()
    counted: list[int] = []

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = layer.weight
        if not isinstance(weight, Tensor):
            raise TypeError("a conv or linear layer without weight")
        positions = output.numel() // output.shape[1] if isinstance(layer, nn.Conv2d) else math.prod(output.shape[:-1])
        counted.append(2 * weight.numel() * positions)

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        net(torch.empty(1, channels, size, size, device="meta"))
    return sum(counted)
