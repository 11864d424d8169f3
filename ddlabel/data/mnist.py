"""MNIST: 70,000 handwritten digits at 28 px (LeCun et al., 1998), read by torchvision."""

from __future__ import annotations

from ._torchvision import TorchvisionSet

__all__ = ["DATASET"]

DATASET = TorchvisionSet(
    name="mnist",
    class_name="MNIST",
    side=28,
    channels=1,
    mean=(0.1307,),
    std=(0.3081,),
    classes=tuple(str(digit) for digit in range(10)),
    flip=False,
)
