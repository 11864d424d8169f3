"""What a net costs: floating point operations by the rule of LADD's figures (arXiv:2409.16239), and bytes of its maps.

Both count conv and linear layers only.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from ._net import on_meta

__all__ = ["TRAINING_STEP", "forward_flops", "map_bytes", "parameter_count"]

TRAINING_STEP = 3
"""Forward passes that a training step costs: one forward, two for the backward pass."""


@lru_cache(maxsize=64)
def forward_flops(arch: str, *, channels: int, size: int, classes: int) -> int:
    """FLOPs of one forward pass of one image; a multiply-add counts as 2, bias, norm, activation and pooling as 0.

    >>> forward_flops("convnet-d3", channels=3, size=32, classes=10)
    101490688
    """
    counted = 0
    for layer, output in _outputs(arch, channels, size, classes):
        weight = layer.weight
        if not isinstance(weight, Tensor):
            raise TypeError("a conv or linear layer without weight")
        positions = output.numel() // output.shape[1] if isinstance(layer, nn.Conv2d) else math.prod(output.shape[:-1])
        counted += 2 * weight.numel() * positions
    return counted


@lru_cache(maxsize=64)
def map_bytes(arch: str, *, channels: int, size: int, classes: int) -> int:
    """Bytes of the float32 outputs of one image.

    >>> map_bytes("convnet-d3", channels=3, size=32, classes=10)
    688168
    """
    return sum(4 * output.numel() for _layer, output in _outputs(arch, channels, size, classes))


@lru_cache(maxsize=64)
def parameter_count(arch: str, *, channels: int, size: int, classes: int) -> int:
    """P, the trainable parameters.

    >>> parameter_count("convnet-d3", channels=3, size=32, classes=10)
    320010
    """
    net = on_meta(arch, channels=channels, size=size, classes=classes)
    return sum(parameter.numel() for parameter in net.parameters())


def _outputs(arch: str, channels: int, size: int, classes: int) -> list[tuple[nn.Module, Tensor]]:
    """Conv and linear layers in the order in which one image passes them, and what they give."""
    net = on_meta(arch, channels=channels, size=size, classes=classes).eval()
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((layer, output))

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(keep)
    with torch.inference_mode():
        net(torch.empty(1, channels, size, size, device="meta"))
    return seen
