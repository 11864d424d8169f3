"""torchvision's ResNets, as they are or with the stem that RDED, GIFT and SRe2L give them for small images."""

from __future__ import annotations

from collections.abc import Sequence

from ._adopted import AdoptedNet, fan_out_values, refuse_small, replace_stem, without
from ._net import NORMS, Family, Net, parse_options

__all__ = ["VARIANTS", "ResNetFamily", "torchvision_resnet"]

VARIANTS = ("plain", "modified")
BLOCKS = (("conv1", "bn1", "relu", "maxpool", "layer1"), ("layer2",), ("layer3",), ("layer4",))


def torchvision_resnet(depth: int, variant: str, *, channels: int, size: int, classes: int) -> Net:
    """A ResNet with batch norm and torchvision's names of tensors.

    Args:
        depth: 18, 50 or 101.
        variant: `plain`; or `modified`: a 3x3 stem of stride 1 without bias, and no max pooling.
        channels, size, classes: of the images and logits.

    Raises:
        UsageError: images that leave a last map of 1 x 1.

    Differs from the authors' code in: the modified stem has the distribution of the other convolutions, where theirs,
    put in later, has torch's default.
    """
    from torchvision import models

    modified = variant == "modified"
    hint = "use larger images" if modified else f"use resnet{depth}-modified"
    refuse_small(f"resnet{depth}-{variant}", size, stride=8 if modified else 32, hint=hint)
    model = getattr(models, f"resnet{depth}")(weights=None, num_classes=classes)
    if modified:
        replace_stem(model, "conv1", channels=channels, kernel_size=3, stride=1, padding=1)
        without(model, "maxpool")
    elif channels != 3:
        replace_stem(model, "conv1", channels=channels)
    return AdoptedNet(model, BLOCKS, head="fc", values=fan_out_values)


class ResNetFamily(Family):
    """ResNets that exist in torchvision's form alone."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def canonical(self, options: Sequence[str]) -> str:
        return f"resnet{self.depth}-{self._variant(options)}"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        return torchvision_resnet(self.depth, self._variant(options), channels=channels, size=size, classes=classes)

    def _variant(self, options: Sequence[str]) -> str:
        chosen = ["plain"]

        def take(text: str) -> bool:
            if text in VARIANTS:
                chosen.append(text)
            return text in VARIANTS

        taken = {", ".join(VARIANTS): take, "batch (bn)": lambda text: NORMS.get(text) == "batch"}
        parse_options(f"resnet{self.depth}", options, taken)
        return chosen[-1]
