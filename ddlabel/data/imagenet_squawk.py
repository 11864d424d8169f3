"""ImageSquawk: ten birds of ImageNet (Cazenavette et al., MTT, 2022)."""

from __future__ import annotations

from ._imagenet import ImageNet

__all__ = ["DATASET"]

DATASET = ImageNet(
    name="imagenet-squawk",
    classes=(
        "n01806143",  # 84 peacock
        "n02007558",  # 130 flamingo
        "n01818515",  # 88 macaw
        "n02051845",  # 144 pelican
        "n02056570",  # 145 king penguin
        "n01614925",  # 22 bald eagle
        "n01843383",  # 96 toucan
        "n01518878",  # 9 ostrich
        "n01860187",  # 100 black swan
        "n01819313",  # 89 sulphur-crested cockatoo
    ),
)
