"""Dropout and stochastic depth whose masks follow from the net's own state, so that seeded runs repeat and resume.

A layer's masks are a function of its buffer alone: a seed, drawn when the net is built, and a step, which whoever
trains the net moves on. So a net in train mode is a function of its parameters, buffers and images: a pass that is
repeated in the same step (GSAM, gradients by recomputation) sees the same masks, and a state that is stored and loaded
goes on with the bits it would have had. Where nobody moves the step, masks stay those of the first one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ..seeding import stream_seed

__all__ = ["Dropout", "advance", "random_layers"]

LARGEST_SEED = 2**62


class Dropout(nn.Module):
    """In train mode: zeroes numbers with probability `p` and divides the others by 1 - p.

    Args:
        p: in [0, 1).
        rows: whether a sample is kept or zeroed whole (stochastic depth), rather than number by number.

    Differs from torch's and torchvision's in: masks come from buffer `state`, not from the global generator. They are
    drawn on the device of the input, so they differ between kinds of devices, as roundings do.
    """

    state: Tensor
    """(2,) int64: the seed and the step."""

    def __init__(self, p: float, *, rows: bool = False) -> None:
        super().__init__()
        self.p, self.rows = p, rows
        self.register_buffer("state", torch.zeros(2, dtype=torch.int64))

    def initialise(self, generator: Generator) -> None:
        """Draw the seed and start at step 0."""
        self.state.copy_(torch.tensor([int(torch.randint(LARGEST_SEED, (), generator=generator)), 0]))

    def forward(self, x: Tensor) -> Tensor:
        """(b, ...), of the same shape."""
        if not self.training or self.p == 0:
            return x
        return x * self._mask(x)

    def _mask(self, x: Tensor) -> Tensor:
        """0 or 1 / (1 - p), of the shape of `x` or of one number for each of its rows."""
        mask = torch.empty((len(x), *[1] * (x.ndim - 1)) if self.rows else x.shape, dtype=x.dtype, device=x.device)
        if x.is_meta:
            return mask
        seed, step = self.state.tolist()
        generator = torch.Generator(device=x.device).manual_seed(stream_seed(seed, "dropout", step))
        return mask.bernoulli_(1 - self.p, generator=generator).div_(1 - self.p)


def random_layers(net: nn.Module) -> tuple[Dropout, ...]:
    """The layers of a net that draw."""
    return tuple(module for module in net.modules() if isinstance(module, Dropout) and module.p > 0)


def advance(layers: Sequence[Dropout]) -> None:
    """Move to the masks of the next step."""
    for layer in layers:
        layer.state[1] += 1
