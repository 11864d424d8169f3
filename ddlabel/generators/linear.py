"""A toy generator of any image shape: a fixed random linear map from latent to image, then a sigmoid (baseline)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from .. import seeding

__all__ = ["GENERATOR", "LinearGenerator"]

WIDTH = 64
"""Numbers in latent `w`."""


class LinearGenerator:
    """image = sigmoid(w A / sqrt(64) + b of the class), with A and b drawn once and for all."""

    output_range = (0.0, 1.0)

    def __init__(self, *, channels: int, resolution: int, num_classes: int) -> None:
        self.resolution, self.num_classes = resolution, num_classes
        self.shape = (channels, resolution, resolution)
        source = seeding.generator(0, "generators", "linear")
        values = math.prod(self.shape)
        self.map = torch.randn(WIDTH, values, generator=source) * (3 / math.sqrt(WIDTH))
        self.offsets = torch.randn(num_classes, values, generator=source)

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """`w` (n, 64), standard normal."""
        return {"w": torch.randn(len(labels), WIDTH, generator=generator).to(labels.device)}

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1], in the precision of `w`."""
        w = latents["w"]
        values = w @ self.map.to(w.dtype) + self.offsets[labels].to(w.dtype)
        return torch.sigmoid(values).reshape(-1, *self.shape)

    def to(self, device: torch.device) -> LinearGenerator:
        """Move the map; returns itself, as modules do."""
        self.map, self.offsets = self.map.to(device), self.offsets.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """What identifies it."""
        return {"map": self.map, "offsets": self.offsets}


GENERATOR = LinearGenerator
