"""ImageFruit: ten fruits and vegetables of ImageNet (Cazenavette et al., MTT, 2022)."""

from __future__ import annotations

from ._imagenet import ImageNet

__all__ = ["DATASET"]

DATASET = ImageNet(
    name="imagenet-fruit",
    classes=(
        "n07753275",  # 953 pineapple
        "n07753592",  # 954 banana
        "n07745940",  # 949 strawberry
        "n07747607",  # 950 orange
        "n07749582",  # 951 lemon
        "n07768694",  # 957 pomegranate
        "n07753113",  # 952 fig
        "n07720875",  # 945 bell pepper
        "n07718472",  # 943 cucumber
        "n07742313",  # 948 Granny Smith
    ),
)
