"""SVHN: house numbers at 32 px (Netzer et al., 2011), read by torchvision, which needs scipy for it."""

from __future__ import annotations

from ._torchvision import TorchvisionSet

__all__ = ["DATASET"]

DATASET = TorchvisionSet(
    name="svhn",
    class_name="SVHN",
    side=32,
    channels=3,
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    classes=tuple(str(digit) for digit in range(10)),
    flip=False,
    by_split=True,
)
