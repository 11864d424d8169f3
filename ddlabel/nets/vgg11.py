"""VGG11 for small images with instance or batch norm (DC's version of Simonyan & Zisserman, 2015).

`glad` is GLaD's for 128 px: the last maps are pooled to 7 x 7 and all of them go to the linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import UsageError
from ._net import NORMS, Family, Net, make_norm, parse_options
from ._sequence import SequenceNet

__all__ = ["NET"]

LAYOUT: tuple[int | str, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
GLAD_SIDE = 7
"""Side of the maps that GLaD's linear layer sees."""


class _VggFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        norm, glad = _parse(options)
        return f"vgg11{'-glad' if glad else ''}-{norm}"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        """Eight 3x3 convolutions with norm and ReLU, five max pools, an adaptive average pool where maps remain.

        With `glad` the last pool is an adaptive max pool to 7 x 7, whatever the maps are.

        Differs from the authors' code in: at 64 px they keep only the top-left of the last 2 x 2 map; here it is
        averaged.
        """
        norm, glad = _parse(options)
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
        stages.append(nn.AdaptiveMaxPool2d(GLAD_SIDE) if glad else nn.AdaptiveAvgPool2d(1))
        features = 512 * GLAD_SIDE**2 if glad else 512
        return SequenceNet(stages, nn.Identity(), nn.Linear(features, classes))


def _parse(options: Sequence[str]) -> tuple[str, bool]:
    """The norm, and whether it is GLaD's."""
    chosen, flags = ["instance"], []

    def take(text: str) -> bool:
        if NORMS.get(text) in {"instance", "batch"}:
            chosen.append(NORMS[text])
            return True
        return False

    def take_glad(text: str) -> bool:
        if text == "glad":
            flags.append(text)
        return text == "glad"

    parse_options("vgg11", options, {"instance, batch (bn)": take, "glad": take_glad})
    return chosen[-1], bool(flags)


NET = _VggFamily()
