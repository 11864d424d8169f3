"""CIFAR-10: 60,000 photographs of 10 classes at 32 px (Krizhevsky, 2009), read by torchvision."""

from __future__ import annotations

from ._torchvision import TorchvisionSet

__all__ = ["DATASET"]

DATASET = TorchvisionSet(
    name="cifar10",
    class_name="CIFAR10",
    side=32,
    channels=3,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
)
