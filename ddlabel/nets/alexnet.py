"""AlexNet for small images, without norm (DC's version of Krizhevsky et al., 2012)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import UsageError
from ._net import Family, Net, parse_options
from ._sequence import SequenceNet, out_side

__all__ = ["NET"]


class _AlexNetFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        parse_options("alexnet", options, {})
        return "alexnet"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        """conv5 128, pool, conv5 192, pool, conv3 256, 192, 192, pool, linear; stride 2 at 64 px."""
        parse_options("alexnet", options, {})
        stride, padding = (2 if size == 64 else 1), (4 if channels == 1 else 2)
        side = out_side(size, 5, stride, padding) // 2 // 2 // 2
        if side < 1:
            raise UsageError(f"net 'alexnet' needs images of 8 px or more, they have {size}", field="arch")
        stages = [
            nn.Sequential(nn.Conv2d(channels, 128, 5, stride, padding), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(192, 256, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(256, 192, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(192, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        ]
        return SequenceNet(stages, nn.Identity(), nn.Linear(192 * side * side, classes))


NET = _AlexNetFamily()
