"""CIFAR-100: 60,000 photographs of 100 classes at 32 px (Krizhevsky, 2009), read by torchvision.

Normalised with its own statistics, as DC, DSA and DM do; MTT, DATM and PAD reuse those of CIFAR-10.
"""

from __future__ import annotations

from ._torchvision import TorchvisionSet

__all__ = ["DATASET"]

DATASET = TorchvisionSet(
    name="cifar100",
    class_name="CIFAR100",
    side=32,
    channels=3,
    mean=(0.5071, 0.4866, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)
