"""ImageYellow: ten yellow things of ImageNet (Cazenavette et al., MTT, 2022)."""

from __future__ import annotations

from ._imagenet import ImageNet

__all__ = ["DATASET"]

DATASET = ImageNet(
    name="imagenet-yellow",
    classes=(
        "n02206856",  # 309 bee
        "n12057211",  # 986 yellow lady's slipper
        "n07753592",  # 954 banana
        "n07749582",  # 951 lemon
        "n12144580",  # 987 corn
        "n04146614",  # 779 school bus
        "n03530642",  # 599 honeycomb
        "n02129165",  # 291 lion
        "n01773157",  # 72 black and gold garden spider
        "n01531178",  # 11 goldfinch
    ),
)
