"""ShuffleNet-V2 of width 0.5 or 1.0, torchvision's (Ma et al., ECCV 2018), as G-VBSM uses it; `modified` for 32 px."""

from __future__ import annotations

from typing import ClassVar

from ._adopted import AdoptedNet, replace_stem, without
from ._net import Net
from ._variants import VariantFamily

__all__ = ["NET"]

BLOCKS = (("conv1", "maxpool", "stage2"), ("stage3",), ("stage4",), ("conv5",))


class _ShuffleNetFamily(VariantFamily):
    name: ClassVar[str] = "shufflenet"
    versions: ClassVar[tuple[str, ...]] = ("v2",)
    sizes: ClassVar[tuple[str, ...]] = ("x0_5", "x1_0")
    modified_stride: ClassVar[int] = 8

    def make(self, size: str, *, modified: bool, channels: int, classes: int) -> Net:
        """Stem with the first stage, two stages, the last convolution, an average pool, one linear layer."""
        from torchvision import models

        model = getattr(models, f"shufflenet_v2_{size}")(weights=None, num_classes=classes)
        if modified or channels != 3:
            replace_stem(model, "conv1.0", channels=channels, stride=1 if modified else 2)
        if modified:
            without(model, "maxpool")
        return AdoptedNet(model, BLOCKS, head="fc")


NET = _ShuffleNetFamily()
