"""ImageMeow: ten cats of ImageNet (Cazenavette et al., MTT, 2022)."""

from __future__ import annotations

from ._imagenet import ImageNet

__all__ = ["DATASET"]

DATASET = ImageNet(
    name="imagenet-meow",
    classes=(
        "n02123045",  # 281 tabby
        "n02123159",  # 282 tiger cat
        "n02123394",  # 283 Persian cat
        "n02123597",  # 284 Siamese cat
        "n02124075",  # 285 Egyptian cat
        "n02129165",  # 291 lion
        "n02129604",  # 292 tiger
        "n02128925",  # 290 jaguar
        "n02128757",  # 289 snow leopard
        "n02127052",  # 287 lynx
    ),
)
