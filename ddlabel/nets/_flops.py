"""Floating point operations of a net, by the rule of LADD's figures (arXiv:2409.16239): conv and linear layers only.

Products with weights count wherever they are, also inside attention; the products of attention among tokens do not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ._net import on_meta

__all__ = ["TRAINING_STEP", "forward_flops"]

TRAINING_STEP = 3
"""Forward passes that a training step costs: one forward, two for the backward pass."""

aten: Any = torch.ops.aten


class _Counter(TorchDispatchMode):
    """Adds up the products with weights: convolutions and two-dimensional matrix products.

    Products of batches of matrices are those of attention, and are not counted.
    """

    total: int = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation is aten.convolution:
            self.total += 2 * args[1].numel() * (output.numel() // output.shape[1])
        elif operation in {aten.mm, aten.addmm}:
            left: Tensor = args[-2]
            self.total += 2 * left.numel() * output.shape[1]
        return output


@lru_cache(maxsize=64)
def forward_flops(arch: str, *, channels: int, size: int, classes: int) -> int:
    """FLOPs of one forward pass of one image; a multiply-add counts as 2, bias, norm, activation and pooling as 0.

    >>> forward_flops("convnet-d3", channels=3, size=32, classes=10)
    101490688
    """
    net = on_meta(arch, channels=channels, size=size, classes=classes).eval()
    counter = _Counter()  # type: ignore[no-untyped-call]  # torch's own
    with torch.no_grad(), counter:
        net(torch.empty(1, channels, size, size, device="meta"))
    return counter.total
