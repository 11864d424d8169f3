"""MobileNet-V2, torchvision's (Sandler et al., CVPR 2018), as GIFT, RDED and G-VBSM use it; `modified` for 32 px.

Its dropout draws from the net's own state (`_dropout.py`).
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import ClassVar

from torch import Generator, nn

from ._adopted import AdoptedNet, fan_out_values, replace_stem
from ._net import Net
from ._variants import VariantFamily

__all__ = ["NET"]

REPEATS = (2, 2, 3, 4, 3, 3, 1, 1)
"""Entries of torchvision's `features` by stage: the stem with the first one, the last convolution at the end."""
BLOCKS = tuple(
    tuple(f"features.{index}" for index in range(*ends)) for ends in pairwise(accumulate(REPEATS, initial=0))
)


class _MobileNetFamily(VariantFamily):
    name: ClassVar[str] = "mobilenet"
    sizes: ClassVar[tuple[str, ...]] = ("v2",)

    def make(self, size: str, *, modified: bool, channels: int, classes: int) -> Net:
        """Stem with the first stage, six stages, the last convolution, an average pool, dropout, one linear layer."""
        from torchvision import models

        model = getattr(models, f"mobilenet_{size}")(weights=None, num_classes=classes)
        if modified or channels != 3:
            replace_stem(model, "features.0.0", channels=channels, stride=1 if modified else 2)
        return AdoptedNet(model, BLOCKS, head="classifier", values=_values)


def _values(module: nn.Module, generator: Generator) -> None:
    """torchvision's: linear layers normal with deviation 0.01."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01, generator=generator)
        nn.init.zeros_(module.bias)
    else:
        fan_out_values(module, generator)


NET = _MobileNetFamily()
