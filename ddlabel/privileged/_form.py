"""Which part of a net a privileged label is of, and how that part is pooled (DCPI: privileged information)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UsageError
from ..nets._net import canonical, on_meta

__all__ = ["ATTENTIONS", "LAST", "POOLS", "Form", "describe_shape", "layer_shapes", "make_form"]

ATTENTIONS = ("spatial", "channel")
"""Spatial: a map, pooled over channels. Channel: a number for each channel, pooled over space."""
POOLS = ("avg", "max")
LAST = "last"
"""`layer` of the deepest block."""


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
        return _reduce(maps, self.attention, self.pool)


def make_form(
    arch: str, *, channels: int, size: int, classes: int, layer: str, attention: str | None, pool: str
) -> Form:
    """The form of the labels that a net gives, from its shapes alone.

    Args:
        arch: name of the net.
        channels, size, classes: of its images (square) and answers.
        layer: `last`, or the number of a block, from 1.
        attention: `spatial`, `channel`, or None for the whole feature.
        pool: `avg` or `max`; without attention it means nothing and is `avg`.

    Raises:
        UsageError: no such net or layer, listing the layers with their shapes; impossible `attention` or `pool`.
    """
    if attention not in (None, *ATTENTIONS):
        raise UsageError(f"attention is '{attention}', expected one of {', '.join(ATTENTIONS)}", field="attention")
    if pool not in POOLS:
        raise UsageError(f"pool is '{pool}', expected one of {', '.join(POOLS)}", field="pool")
    shapes = layer_shapes(arch, channels=channels, size=size, classes=classes)
    number = len(shapes) if layer == LAST else int(layer) if layer.isascii() and layer.isdecimal() else 0
    if not 1 <= number <= len(shapes):
        known = ", ".join(f"{index}: {' x '.join(map(str, shape))}" for index, shape in enumerate(shapes, start=1))
        raise UsageError(
            f"net '{arch}' has no layer '{layer[:40]}', expected '{LAST}' or one of {known}", field="layer"
        )
    maps = _reduce(torch.empty(1, *shapes[number - 1], device="meta"), attention, pool)
    channel, height, width = maps.shape[1:]
    return Form(
        arch=canonical(arch),
        layer=number,
        attention=attention,
        pool="avg" if attention is None else pool,
        shape=(channel, height, width),
    )


@lru_cache(maxsize=64)
def layer_shapes(arch: str, *, channels: int, size: int, classes: int) -> tuple[tuple[int, ...], ...]:
    """What each block of a net gives for one image, first to last: (c, h, w), or (f,).

    Raises:
        UsageError: no such net, or images it cannot take.
    """
    net = on_meta(arch, channels=channels, size=size, classes=classes).eval()
    with torch.inference_mode():
        outputs = net.features_by_layer(torch.empty(1, channels, size, size, device="meta"))
    return tuple(tuple(output.shape[1:]) for output in outputs)


def describe_shape(shape: tuple[int, ...]) -> str:
    """As messages show it: 128x4x4."""
    return "x".join(map(str, shape))


def _reduce(maps: Tensor, attention: str | None, pool: str) -> Tensor:
    if maps.dim() == 2:
        maps = maps[:, :, None, None]
    if attention is None:
        return maps
    axes = (1,) if attention == "spatial" else (2, 3)
    return maps.mean(axes, keepdim=True) if pool == "avg" else maps.amax(axes, keepdim=True)
