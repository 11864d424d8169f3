"""ImageWoof: ten breeds of dog of ImageNet (Howard, fast.ai)."""

from __future__ import annotations

from ._imagenet import ImageNet

__all__ = ["DATASET"]

DATASET = ImageNet(
    name="imagenet-woof",
    classes=(
        "n02096294",  # 193 Australian terrier
        "n02093754",  # 182 Border terrier
        "n02111889",  # 258 Samoyed
        "n02088364",  # 162 beagle
        "n02086240",  # 155 Shih-Tzu
        "n02089973",  # 167 English foxhound
        "n02087394",  # 159 Rhodesian ridgeback
        "n02115641",  # 273 dingo
        "n02099601",  # 207 golden retriever
        "n02105641",  # 229 Old English sheepdog
    ),
)
