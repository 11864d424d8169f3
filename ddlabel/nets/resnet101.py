"""ResNet101, torchvision's (He et al., CVPR 2016, arXiv:1512.03385), or modified for small images (RDED, GIFT)."""

from __future__ import annotations

from ._resnet import ResNetFamily

__all__ = ["NET"]

NET = ResNetFamily(101)
