"""VGG11 for small images with instance or batch norm (DC's version of Simonyan & Zisserman, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import UsageError
from ._net import NORMS, Family, Net, make_norm, parse_options
from ._sequence import SequenceNet

__all__ = ["NET"]

LAYOUT: tuple[int | str, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class _VggFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        return f"vgg11-{_norm(options)}"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        """Eight 3x3 convolutions with norm and ReLU, five max pools, an adaptive average pool where maps remain.

        Differs from the authors' code in: at 64 px they keep only the top-left of the last 2 x 2 map; here it is
        averaged.
        """
        norm = _norm(options)
        if size < 32:
            raise UsageError(f"net 'vgg11' needs images of 32 px or more, they have {size}", field="arch")
        stages: list[nn.Module] = []
        for item in LAYOUT:
            if isinstance(item, str):
                stages[-1] = nn.Sequential(*stages[-1].children(), nn.MaxPool2d(2))
                size //= 2
                continue
            padding = 3 if channels == 1 and not stages else 1
            size += 2 * (padding - 1)
            conv = nn.Conv2d(channels, item, 3, padding=padding)
            stages.append(nn.Sequential(conv, make_norm(norm, item, size, size), nn.ReLU()))
            channels = item
        stages.append(nn.AdaptiveAvgPool2d(1))
        return SequenceNet(stages, nn.Identity(), nn.Linear(512, classes))


def _norm(options: Sequence[str]) -> str:
    chosen = ["instance"]

    def take(text: str) -> bool:
        if NORMS.get(text) in {"instance", "batch"}:
            chosen.append(NORMS[text])
            return True
        return False

    parse_options("vgg11", options, {"instance, batch (bn)": take})
    return chosen[-1]


NET = _VggFamily()
