"""ResNet18 with a 3x3 stem, instance or batch norm, and its average-pooling variant `ap` (arXiv:1512.03385).

After He et al. (CVPR 2016) in the version of DC. From 128 px on: the 7x7 stride-2 stem, max pooling
and an adaptive average pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ._net import NORMS, Family, Net, make_norm, parse_options

__all__ = ["NET", "ResNet18"]

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; `ap` halves by average pooling instead of a stride."""

    def __init__(self, channels: int, width: int, stride: int, norm: str, side: int, *, ap: bool) -> None:
        super().__init__()
        self.pool = ap and stride == 2
        step = 1 if ap else stride
        inner = side if self.pool else side // stride
        self.conv1 = nn.Conv2d(channels, width, 3, step, 1, bias=False)
        self.norm1 = make_norm(norm, width, inner, inner)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = make_norm(norm, width, side // stride, side // stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            layers: list[nn.Module] = [nn.Conv2d(channels, width, 1, step, bias=False)]
            layers += [nn.AvgPool2d(2)] if self.pool else []
            self.shortcut = nn.Sequential(*layers, make_norm(norm, width, side // stride, side // stride))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        if self.pool:
            y = functional.avg_pool2d(y, 2)
        y = self.norm2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class ResNet18(Net):
    """Stem, four stages of two basic blocks, pooling, one linear layer; convolutions without bias.

    Differs from the authors' code in: 64 px images take a stem of stride 2, as in PAD's Tiny-ImageNet runs.
    """

    def __init__(self, norm: str, *, ap: bool, channels: int, size: int, classes: int) -> None:
        super().__init__()
        large = size >= 128
        stride = 2 if size >= 64 else 1
        kernel, padding = (7, 3) if large else (3, 1)
        side = (size + 1) // stride if stride == 2 else size
        self.stem = nn.Conv2d(channels, 64, kernel, stride, padding, bias=False)
        self.norm = make_norm(norm, 64, side, side)
        self.pool: nn.Module = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        side = side // 2 if large else side
        stages, width_in = [], 64
        for index, width in enumerate(WIDTHS):
            step = 1 if index == 0 else 2
            first = _Block(width_in, width, step, norm, side, ap=ap)
            side //= step
            stages.append(nn.Sequential(first, _Block(width, width, 1, norm, side, ap=ap)))
            width_in = width
        self.stages = nn.ModuleList(stages)
        self.last_pool: nn.Module = nn.Identity() if ap else nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512 * (side * side if ap else 1), classes)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The four stages, the first with the stem."""
        first, *others = self.stages
        return (lambda images: first(self.pool(functional.relu(self.norm(self.stem(images))))), *others)

    def gather(self, maps: Tensor) -> Tensor:
        """512 features, or 512*side^2 for `ap`."""
        features: Tensor = self.last_pool(maps)
        return features.flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.classifier(features)
        return logits


class _ResNetFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        norm, ap = _parse(options)
        return f"resnet18{'-ap' if ap else ''}-{norm}"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        norm, ap = _parse(options)
        if size < 16:
            raise UsageError(f"net 'resnet18' needs images of 16 px or more, they have {size}", field="arch")
        return ResNet18(norm, ap=ap, channels=channels, size=size, classes=classes)


def _parse(options: Sequence[str]) -> tuple[str, bool]:
    norms, flags = ["instance"], []

    def take_norm(text: str) -> bool:
        if NORMS.get(text) in {"instance", "batch"}:
            norms.append(NORMS[text])
            return True
        return False

    def take_ap(text: str) -> bool:
        if text == "ap":
            flags.append(text)
        return text == "ap"

    parse_options("resnet18", options, {"instance, batch (bn)": take_norm, "ap": take_ap})
    return norms[-1], bool(flags)


NET = _ResNetFamily()
