"""Which part of a net a privileged label is of, and how that part is pooled (DCPI: privileged information)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["ATTENTIONS", "POOLS", "Form"]

ATTENTIONS = ("spatial", "channel")
"""Spatial: a map, pooled over channels. Channel: a number for each channel, pooled over space."""
POOLS = ("avg", "max")


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of label: a feature of block `layer`, whole or pooled."""

    arch: str
    """Canonical name of the net whose feature it is."""
    layer: int
    """From 1; blocks are tapped after their pooling."""
    attention: str | None
    """`spatial`, `channel`, or None for the whole feature."""
    pool: str
    """`avg` or `max`."""
    shape: tuple[int, int, int]
    """Of one label: (c, h, w), (1, h, w) or (c, 1, 1); vectors are (f, 1, 1)."""

    def reduce(self, maps: Tensor) -> Tensor:
        """What is compared with labels, (b, *shape): maps (b, c, h, w) or vectors (b, f), pooled as the label is.

        Differentiable; linear in the maps for `avg`.
        """
        if maps.dim() == 2:
            maps = maps[:, :, None, None]
        if self.attention is None:
            return maps
        axes = (1,) if self.attention == "spatial" else (2, 3)
        return maps.mean(axes, keepdim=True) if self.pool == "avg" else maps.amax(axes, keepdim=True)
