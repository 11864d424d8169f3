"""ImageNette: ten ImageNet classes that are easy to tell apart (Howard, fast.ai)."""

from __future__ import annotations

from ._imagenet import ImageNet

__all__ = ["DATASET"]

DATASET = ImageNet(
    name="imagenet-nette",
    classes=(
        "n01440764",  # 0 tench
        "n02102040",  # 217 English springer
        "n02979186",  # 482 cassette player
        "n03000684",  # 491 chain saw
        "n03028079",  # 497 church
        "n03394916",  # 566 French horn
        "n03417042",  # 569 garbage truck
        "n03425413",  # 571 gas pump
        "n03445777",  # 574 golf ball
        "n03888257",  # 701 parachute
    ),
)
