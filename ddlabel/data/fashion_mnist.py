"""Fashion-MNIST: 70,000 pictures of clothes at 28 px (Xiao et al., arXiv:1708.07747), read by torchvision."""

from __future__ import annotations

from ._torchvision import TorchvisionSet

__all__ = ["DATASET"]

DATASET = TorchvisionSet(
    name="fashion-mnist",
    class_name="FashionMNIST",
    side=28,
    channels=1,
    mean=(0.2861,),
    std=(0.3530,),
)
