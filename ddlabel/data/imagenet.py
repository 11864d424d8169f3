"""ImageNet-1K: 1.28 million photographs of 1,000 classes (ILSVRC 2012)."""

from __future__ import annotations

from ._imagenet import ImageNet

__all__ = ["DATASET"]

DATASET = ImageNet(name="imagenet")
