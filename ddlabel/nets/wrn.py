"""Wide ResNets `wrn-D-K` for small images, as G-VBSM uses them (Zagoruyko & Komodakis, BMVC 2016).

D = 6n + 4 layers in three stages of n blocks, K times as wide as 16, 32 and 64; batch norm before every convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Generator, Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ._adopted import fan_out_values
from ._net import Family, Net, parse_options

__all__ = ["NET", "WideResNet"]

WIDTHS = (16, 32, 64)
DEFAULT = (16, 2)
LARGEST = 1000


class _Block(nn.Module):
    """Norm, ReLU, convolution, twice; where shapes change the shortcut is a 1x1 convolution of the first ReLU."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = stride != 1 or channels != width
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(x))
        kept: Tensor = x if self.shortcut is None else self.shortcut(y)
        changed: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(y))))
        return kept + changed


class WideResNet(Net):
    """Stem, three stages, norm and ReLU, average pool, one linear layer.

    Differs from the authors' code in: no dropout inside blocks, as in their runs without data augmentation by crops
    and in those of G-VBSM.
    """

    def __init__(self, depth: int, widen: int, *, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False)
        stages, inputs = [], WIDTHS[0]
        for index, base in enumerate(WIDTHS):
            width = base * widen
            blocks = [_Block(inputs, width, 1 if index == 0 else 2)]
            blocks += [_Block(width, width, 1) for _block in range((depth - 4) // 6 - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The stages, the first with the stem, the last with norm and ReLU."""
        first, second, third = self.stages
        return (
            lambda images: cast(Tensor, first(self.stem(images))),
            second,
            lambda x: functional.relu(self.norm(third(x))),
        )

    def gather(self, maps: Tensor) -> Tensor:
        """Means over space, (b, 64K)."""
        return functional.adaptive_avg_pool2d(maps, 1).flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.classifier(features)
        return logits

    def initialise(self, generator: Generator) -> None:
        """Convolutions as in the paper, normal with variance 2 / fan-out; the linear layer as torch has it."""
        for module in self.modules():
            fan_out_values(module, generator)


class _WrnFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        return "wrn-{}-{}".format(*_parse(options))

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        depth, widen = _parse(options)
        if size < 8:
            raise UsageError(f"net 'wrn' needs images of 8 px or more, they have {size}", field="arch")
        net = WideResNet(depth, widen, channels=channels, classes=classes)
        if size >= 128:
            net.notes = (f"made for small images: its first maps are {size} x {size}, which is slow",)
        return net


def _parse(options: Sequence[str]) -> tuple[int, int]:
    numbers: list[int] = []

    def take(text: str) -> bool:
        taken = len(numbers) < 2 and text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= LARGEST
        if taken:
            numbers.append(int(text))
        return taken

    parse_options("wrn", options, {"D-K, depth and width, such as 16-2": take})
    depth, widen = numbers if len(numbers) == 2 else (*numbers, *DEFAULT[len(numbers) :])
    if depth < 10 or (depth - 4) % 6:
        near = max(10, 6 * round((depth - 4) / 6) + 4)
        raise UsageError(
            f"net 'wrn-{depth}-{widen}' has depth {depth}, expected 6n + 4: 10, 16, 22, 28, ...",
            field="arch",
            hint=f"use wrn-{near}-{widen}",
        )
    return depth, widen


NET = _WrnFamily()
