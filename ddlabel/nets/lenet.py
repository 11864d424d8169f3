"""LeNet for 28 and 32 px, and for 64 px with a first convolution of stride 2 (DC's version of LeCun et al., 1998)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import UsageError
from ._net import Family, Net, parse_options
from ._sequence import SequenceNet, out_side

__all__ = ["NET"]


class _LeNetFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        parse_options("lenet", options, {})
        return "lenet"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        """conv5 6, max pool, conv5 16, max pool, 120, 84; padding 2 for grey images, stride 2 at 64 px."""
        parse_options("lenet", options, {})
        padding, stride = (2 if channels == 1 else 0), (2 if size >= 64 else 1)
        side = out_side(out_side(size, 5, stride, padding) // 2, 5) // 2
        if side < 1:
            raise UsageError(f"net 'lenet' needs images of 16 px or more, they have {size}", field="arch")
        stages = [
            nn.Sequential(nn.Conv2d(channels, 6, 5, stride, padding), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        ]
        head = nn.Sequential(nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
        return SequenceNet(stages, head, nn.Linear(84, classes))


NET = _LeNetFamily()
