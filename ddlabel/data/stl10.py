"""STL-10: 5,000 training and 8,000 test photographs of 10 classes at 96 px (Coates et al., 2011), by torchvision."""

from __future__ import annotations

from ._torchvision import TorchvisionSet

__all__ = ["DATASET"]

DATASET = TorchvisionSet(
    name="stl10",
    class_name="STL10",
    side=96,
    channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    by_split=True,
)
