"""ConvNet-D1 to D8, the net of DC, DSA, DM, MTT and PAD (Zhao et al., ICLR 2021, arXiv:2006.05929).

Names: `convnet`, then any of `dK` (depth), `wN` (width, default 128), a norm (instance, batch or bn, layer, group,
none), an activation (relu, sigmoid, leakyrelu, swish), a pooling (avg, max, nopool).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ._net import NORMS, Family, Net, make_norm, parse_options

__all__ = ["NET", "ConvNet", "mean_pool"]

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "sigmoid": functional.sigmoid,
    "leakyrelu": functional.leaky_relu,
    "swish": functional.silu,
}
POOLINGS = ("avg", "max", "nopool")
MAX_DEPTH = 8
MAX_PRODUCT_WIDTH = 128
"""Widest maps that are pooled by a matrix product, whose work per mean grows with the width."""


@dataclass
class _Options:
    depth: int = 3
    width: int = 128
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"

    def take_depth(self, text: str) -> bool:
        return self._take_number(text, "d", "depth", MAX_DEPTH)

    def take_width(self, text: str) -> bool:
        return self._take_number(text, "w", "width", 4096)

    def take_norm(self, text: str) -> bool:
        if text in NORMS:
            self.norm = NORMS[text]
        return text in NORMS

    def take_activation(self, text: str) -> bool:
        if text in ACTIVATIONS:
            self.activation = text
        return text in ACTIVATIONS

    def take_pooling(self, text: str) -> bool:
        if text in POOLINGS:
            self.pooling = text
        return text in POOLINGS

    def _take_number(self, text: str, letter: str, name: str, limit: int) -> bool:
        digits = text[1:]
        if not (text.startswith(letter) and digits.isdecimal() and len(digits) < 6 and 1 <= int(digits) <= limit):
            return False
        setattr(self, name, int(digits))
        return True


class _Block(nn.Module):
    """3x3 convolution, norm, activation, pooling."""

    def __init__(self, options: _Options, channels: int, size: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, options.width, 3, padding=padding)
        self.norm = make_norm(options.norm, options.width, size, size)
        self.activation = options.activation
        self.pooling = options.pooling

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.activate(x))

    def activate(self, x: Tensor) -> Tensor:
        """ReLU changes what the norm gave in place: nothing else holds it."""
        values = self.norm(self.conv(x))
        return torch.relu_(values) if self.activation == "relu" else ACTIVATIONS[self.activation](values)

    def taps(self, x: Tensor) -> list[Tensor]:
        """Outputs of the layers the block has: a norm or a pooling that is not there gives none."""
        outputs = [self.conv(x)]
        if not isinstance(self.norm, nn.Identity):
            outputs.append(self.norm(outputs[-1]))
        outputs.append(ACTIVATIONS[self.activation](outputs[-1]))
        if self.pooling != "nopool":
            outputs.append(self.pool(outputs[-1]))
        return outputs

    def pool(self, x: Tensor) -> Tensor:
        if self.pooling == "avg":
            return mean_pool(x)
        return functional.max_pool2d(x, 2) if self.pooling == "max" else x


class ConvNet(Net):
    """Blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer.

    Differs from the authors' code in: activations other than ReLU are out of place; images whose size does not divide
    are floored by the pooling as there, with a note.
    """

    def __init__(self, options: _Options, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        grey28 = channels == 1 and size == 28
        maps = 32 if grey28 else size
        blocks = []
        for index in range(options.depth):
            padding = 3 if grey28 and index == 0 else 1
            blocks.append(_Block(options, channels if index == 0 else options.width, maps, padding))
            if options.pooling != "nopool":
                if maps % 2:
                    self.notes = (*self.notes, f"pooling drops the border of {maps} x {maps} maps in block {index + 1}")
                maps //= 2
        self.blocks = nn.ModuleList(blocks)
        if options.norm == "instance" and options.pooling != "nopool" and maps < 2:
            self.notes = (*self.notes, "the last norm sees maps of 2 x 2 or less: take a smaller depth")
        self.classifier = nn.Linear(options.width * maps * maps, classes)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, each with its pooling."""
        return tuple(self.blocks)

    def last_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The activations of the last block, before it pools them."""
        last = cast(_Block, self.blocks[-1])
        maps = last.activate(self._through(images, 0, -1))
        return maps, self.classify(self.gather(last.pool(maps)))

    def taps(self, images: Tensor) -> list[Tensor]:
        """Outputs of convolution, norm, activation and pooling of every block: 4k of them at depth k."""
        outputs: list[Tensor] = []
        for block in self.blocks:
            outputs += cast(_Block, block).taps(outputs[-1] if outputs else images)
        return outputs

    def gather(self, maps: Tensor) -> Tensor:
        """The flattened last map: 2048 features at width 128 and a 4 x 4 map."""
        return maps.flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.classifier(features)
        return logits


def mean_pool(x: Tensor) -> Tensor:
    """Means of 2 x 2 squares of maps (b, c, h, w), as `avg_pool2d(x, 2)`.

    On the CPU as a matrix product of pairs of rows, which is bit for bit the same and several times faster there,
    above all in the backward pass.
    """
    batch, channels, height, width = x.shape
    plain = x.device.type == "cpu" and x.is_contiguous() and width <= MAX_PRODUCT_WIDTH
    if not plain or height % 2 or width % 2:
        return functional.avg_pool2d(x, 2)
    pairs = torch.eye(width // 2, dtype=x.dtype).mul_(0.25).repeat_interleave(2, dim=0).repeat(2, 1)
    return x.view(batch, channels, height // 2, 2 * width) @ pairs


class _ConvNetFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        chosen = _parse(options)
        extras = [chosen.activation] * (chosen.activation != "relu") + [chosen.pooling] * (chosen.pooling != "avg")
        return "-".join(["convnet", f"d{chosen.depth}", f"w{chosen.width}", chosen.norm, *extras])

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        chosen = _parse(options)
        side = 32 if size == 28 and channels == 1 else size
        if chosen.pooling != "nopool" and 2**chosen.depth > side:
            deepest = max(1, side.bit_length() - 1)
            raise UsageError(
                f"net 'convnet-d{chosen.depth}' halves images {chosen.depth} times, {size} px allow at most {deepest}",
                field="arch",
                hint=f"use convnet-d{max(1, deepest - 2)} or larger images",
            )
        if chosen.norm == "group" and chosen.width % 4:
            raise UsageError(f"net with group norm has width {chosen.width}, expected a multiple of 4", field="arch")
        return ConvNet(chosen, channels=channels, size=size, classes=classes)


def _parse(options: Sequence[str]) -> _Options:
    chosen = _Options()
    parsers = {
        f"d1 to d{MAX_DEPTH}": chosen.take_depth,
        "wN": chosen.take_width,
        "instance, batch (bn), layer, group, none": chosen.take_norm,
        ", ".join(ACTIVATIONS): chosen.take_activation,
        ", ".join(POOLINGS): chosen.take_pooling,
    }
    parse_options("convnet", options, parsers)
    return chosen


NET = _ConvNetFamily()
