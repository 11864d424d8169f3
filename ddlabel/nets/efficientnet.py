"""EfficientNet-B0, torchvision's (Tan & Le, ICML 2019), as GIFT and RDED evaluate with it; `modified` for 32 px.

Its dropout and stochastic depth draw from the net's own state (`_dropout.py`).
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Generator, nn

from ._adopted import AdoptedNet, fan_out_values, replace_stem
from ._net import Net
from ._variants import VariantFamily

__all__ = ["NET"]

BLOCKS = (("features.0", "features.1"), *((f"features.{index}",) for index in range(2, 9)))


class _EfficientNetFamily(VariantFamily):
    name: ClassVar[str] = "efficientnet"
    sizes: ClassVar[tuple[str, ...]] = ("b0",)

    def make(self, size: str, *, modified: bool, channels: int, classes: int) -> Net:
        """Stem with the first stage, six stages, the last convolution, an average pool, dropout, one linear layer."""
        from torchvision import models

        model = getattr(models, f"efficientnet_{size}")(weights=None, num_classes=classes)
        if modified or channels != 3:
            replace_stem(model, "features.0.0", channels=channels, stride=1 if modified else 2)
        return AdoptedNet(model, BLOCKS, head="classifier", values=_values)


def _values(module: nn.Module, generator: Generator) -> None:
    """torchvision's: linear layers uniform within 1 / sqrt(k)."""
    if isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        nn.init.zeros_(module.bias)
    else:
        fan_out_values(module, generator)


NET = _EfficientNetFamily()
