"""Input spaces: how uint8 pixels become the float32 images that nets see, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .zca import Zca

__all__ = ["Space"]


@dataclass(frozen=True)
class Space:
    """Pixels normalised per channel, or ZCA-whitened (which replaces normalisation)."""

    kind: str
    """`normalised` or `zca`."""
    mean: tuple[float, ...]
    """Per channel, in [0, 1] units."""
    std: tuple[float, ...]
    zca: Zca | None = None

    def encode(self, pixels: Tensor) -> Tensor:
        """Images (n, c, h, w) float32 of uint8 pixels of the same shape, on their device."""
        units = pixels.float().div_(255)
        if self.zca is not None:
            return self.zca.whiten(units)
        mean, std = self._constants(units)
        return units.sub_(mean).div_(std)

    def from_units(self, units: Tensor) -> Tensor:
        """Images of [0, 1] units, both (n, c, h, w) float32; units outside that range too."""
        if self.zca is not None:
            return self.zca.whiten(units)
        mean, std = self._constants(units)
        return (units - mean) / std

    def decode(self, images: Tensor) -> Tensor:
        """Images back in [0, 1] units, not clamped."""
        if self.zca is not None:
            return self.zca.unwhiten(images)
        mean, std = self._constants(images)
        return images * std + mean

    def to_pixels(self, images: Tensor) -> Tensor:
        """Images as uint8 pixels: clamped to [0, 1], times 255, rounded half to even."""
        return self.decode(images).clamp(0, 1).mul(255).round().to(torch.uint8)

    def on(self, device: torch.device) -> Space:
        """The space with the tensors of its whitening on a device, copied there once."""
        if self.zca is None or self.zca.matrix.device == device:
            return self
        if device not in self._elsewhere:
            moved = {name: getattr(self.zca, name).to(device) for name in ("mean", "matrix", "inverse")}
            self._elsewhere[device] = replace(self, zca=replace(self.zca, **moved))
        return self._elsewhere[device]

    @cached_property
    def _elsewhere(self) -> dict[torch.device, Space]:
        return {}

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=like.dtype, device=like.device).reshape(shape)
        std = torch.tensor(self.std, dtype=like.dtype, device=like.device).reshape(shape)
        return mean, std
