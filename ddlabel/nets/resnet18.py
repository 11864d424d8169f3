"""ResNet18 in DC's version with instance or batch norm, and torchvision's `plain` or `modified` (arXiv:1512.03385).

After He et al. (CVPR 2016). DC's has a 3x3 stem; from 128 px on the 7x7 stride-2 stem, max pooling and an adaptive
average pool, or, with `glad`, the 3x3 stride-1 stem at every size; `ap` halves by average pooling. `plain` is
torchvision's as it is, `modified` has a 3x3 stride-1 stem and no max pooling (SRe2L, RDED, GIFT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ._net import NORMS, Family, Net, make_norm, parse_options
from ._resnet import VARIANTS, torchvision_resnet

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

    Differs from the authors' code in: 64 px images take a stem of stride 2, as in PAD's Tiny-ImageNet runs; `glad`
    has stride 1 there too.
    """

    def __init__(self, norm: str, *, ap: bool, glad: bool, channels: int, size: int, classes: int) -> None:
        super().__init__()
        large = size >= 128 and not glad
        stride = 2 if size >= 64 and not glad else 1
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


@dataclass
class _Options:
    variant: str | None = None
    """Of torchvision's net; None for DC's."""
    norm: str | None = None
    ap: bool = False
    glad: bool = False

    def take_variant(self, text: str) -> bool:
        if text in VARIANTS:
            self.variant = text
        return text in VARIANTS

    def take_norm(self, text: str) -> bool:
        taken = NORMS.get(text) in {"instance", "batch"}
        if taken:
            self.norm = NORMS[text]
        return taken

    def take_flag(self, text: str) -> bool:
        if text in {"ap", "glad"}:
            setattr(self, text, True)
        return text in {"ap", "glad"}


class _ResNetFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        chosen = _parse(options)
        if chosen.variant is not None:
            return f"resnet18-{chosen.variant}"
        return f"resnet18{'-ap' if chosen.ap else ''}{'-glad' if chosen.glad else ''}-{chosen.norm}"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        chosen = _parse(options)
        if chosen.variant is not None:
            return torchvision_resnet(18, chosen.variant, channels=channels, size=size, classes=classes)
        if size < 16:
            raise UsageError(f"net 'resnet18' needs images of 16 px or more, they have {size}", field="arch")
        return ResNet18(
            chosen.norm or "instance", ap=chosen.ap, glad=chosen.glad, channels=channels, size=size, classes=classes
        )


def _parse(options: Sequence[str]) -> _Options:
    chosen = _Options()
    parsers = {
        "instance, batch (bn)": chosen.take_norm,
        "ap, glad": chosen.take_flag,
        ", ".join(VARIANTS): chosen.take_variant,
    }
    parse_options("resnet18", options, parsers)
    if chosen.variant is not None and (chosen.norm == "instance" or chosen.ap or chosen.glad):
        raise UsageError(
            f"net 'resnet18-{chosen.variant}' is torchvision's and has batch norm, expected no instance norm, ap or "
            "glad beside it",
            field="arch",
            hint=f"use resnet18-{chosen.variant}, or resnet18-instance for DC's net",
        )
    chosen.norm = chosen.norm or "instance"
    return chosen


NET = _ResNetFamily()
