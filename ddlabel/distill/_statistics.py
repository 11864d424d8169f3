"""Statistics of what goes into the layers of a trained net, over channels and over patches (G-VBSM, arXiv:2311.17950).

All of a layer come from two small maps, mean and variance over the batch at every channel and pixel, so that a large
map is read twice forward and once backward however many statistics are asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nets._net import Net

__all__ = [
    "Layer",
    "channel_statistics",
    "collect_targets",
    "graph_bytes",
    "hooked_layers",
    "measured",
    "moments",
    "patch_statistics",
]

LOOPED = 2**12
"""Numbers of an image from which on a CPU goes through a batch image by image, with its sums in the cache."""


@dataclass(frozen=True)
class Layer:
    """A layer whose input is measured."""

    name: str
    module: nn.Module

    @property
    def is_norm(self) -> bool:
        """A batch norm, which knows its targets; else a convolution."""
        return isinstance(self.module, nn.BatchNorm2d)

    @property
    def channels(self) -> int:
        """Of its input."""
        if isinstance(self.module, nn.BatchNorm2d):
            return self.module.num_features
        return cast(nn.Conv2d, self.module).in_channels

    def lengths(self, total: int) -> list[int]:
        """Of its statistics, which are `total` numbers in a row: means and variances by channel, and by patch."""
        rest = total - 2 * self.channels
        return [self.channels] * 2 + ([rest // 2] * 2 if rest else [])


def hooked_layers(net: nn.Module) -> list[Layer]:
    """Every batch norm with running statistics and every convolution, in the order of the modules."""
    return [
        Layer(name, module)
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.BatchNorm2d) and module.track_running_stats)
    ]


class _Moments(torch.autograd.Function):
    """Mean and biased variance over the first axis, with a backward pass that reads the input once."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        mean = values.mean(dim=0)
        if values.device.type == "cpu" and values[0].numel() >= LOOPED:
            variance = torch.zeros_like(mean)
            for each in values:
                offset = each - mean
                variance.addcmul_(offset, offset)
            variance /= len(values)
        else:
            variance = (values - mean).square_().mean(dim=0)
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        of_mean, of_variance = (gradient / len(values) for gradient in gradients)
        return torch.addcmul(of_mean - 2 * of_variance * mean, values, 2 * of_variance)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (c, h, w) over the batch, of maps (b, c, h, w); differentiable once."""
    return cast(tuple[Tensor, Tensor], _Moments.apply(values))


def channel_statistics(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (c,) over batch and pixels, of moments (c, h, w) over the batch."""
    return _pooled(mean.flatten(1), variance.flatten(1))


def patch_statistics(maps: Tensor, side: int, known: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance at every position of a patch, over batch, channels and pixels of the patch.

    Args:
        maps: (b, c, h, w); resized bilinearly to the next multiple of `side` in both directions.
        side: of a patch in pixels.
        known: `moments` of the maps, when they were computed before.

    Returns:
        Both (U V,), row by row.
    """
    height, width = maps.shape[2:]
    if height == width == 1:  # a resized pixel is constant: one patch, whatever its side
        side = 1
    rows, columns = -(-height // side), -(-width // side)
    if (rows * side, columns * side) != (height, width):
        maps = functional.interpolate(maps, (rows * side, columns * side), mode="bilinear", align_corners=False)
        known = None
    cells = [
        each.reshape(-1, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
        for each in known or moments(maps)
    ]
    return _pooled(*cells)


def _pooled(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (n,) of groups, of means and variances (n, m) of their equally large parts."""
    return means.mean(dim=1), variances.mean(dim=1) + means.var(dim=1, correction=0)


def measured(
    net: nn.Module, layers: Sequence[Layer], wanted: Sequence[bool], images: Tensor, side: int
) -> tuple[Tensor, list[Tensor | None]]:
    """One forward pass.

    Args:
        net: in eval mode.
        layers: of the net.
        wanted: which of them are measured.
        images: (b, c, h, w).
        side: of a patch in pixels.

    Returns:
        Logits (b, k), and per layer its statistics in a row: mean and variance by channel, for a convolution also mean
        and variance by patch; None where not wanted.
    """
    with _listening(layers, wanted, side) as found:
        logits = net(images)
    return logits, found


def graph_bytes(net: nn.Module, shape: Sequence[int], side: int) -> int:
    """Bytes per image that the graph of logits and statistics of all layers holds, counted with two images.

    Args:
        net: in eval mode, its parameters frozen.
        shape: (c, h, w) of an image.
        side: of a patch in pixels.
    """
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    layers = hooked_layers(net)
    device = next(net.parameters()).device
    images = torch.zeros(2, *shape, device=device, requires_grad=True)
    saving = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with saving, _listening(layers, [True] * len(layers), side) as found:
        logits = net(images)
    own = {value.untyped_storage()._cdata for value in net.state_dict().values()}
    del logits, found
    return sum(value.untyped_storage().nbytes() for key, value in kept.items() if key not in own) // len(images)


@contextlib.contextmanager
def _listening(layers: Sequence[Layer], wanted: Sequence[bool], side: int) -> Iterator[list[Tensor | None]]:
    """Fills the list while a net runs: per layer its statistics in a row, None where not wanted."""
    found: list[Tensor | None] = [None] * len(layers)

    def note(index: int, maps: Tensor) -> None:
        known = moments(maps)
        by_patch = () if layers[index].is_norm else patch_statistics(maps, side, known)
        found[index] = torch.cat([*channel_statistics(*known), *by_patch])

    handles = [
        layer.module.register_forward_pre_hook(lambda _module, inputs, index=index: note(index, inputs[0]))
        for index, layer in enumerate(layers)
        if wanted[index]
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def collect_targets(nets: Sequence[Net], batches: Iterable[Tensor], side: int) -> list[list[Tensor]]:
    """What the layers of nets see of real images, in one pass over them.

    A batch norm's targets are its running statistics. A convolution's are means over batches of the batch's mean and
    variance, each batch weighted by its images: no variance over all images at once, as published.

    Args:
        nets: in eval mode.
        batches: real images (b, c, h, w), each seen by all nets.
        side: of a patch in pixels.

    Returns:
        Per net and layer the statistics in a row, float32, as `measured` gives them.
    """
    layers = [hooked_layers(net) for net in nets]
    sums: list[list[Tensor | float]] = [[0.0] * len(own) for own in layers]
    count = 0
    with torch.no_grad():
        for images in batches:
            count += len(images)
            for net, own, total in zip(nets, layers, sums, strict=True):
                _logits, found = measured(net, own, [not layer.is_norm for layer in own], images, side)
                for index, statistics in enumerate(found):
                    if statistics is not None:
                        total[index] = total[index] + len(images) * statistics.double().cpu()
    return [
        [
            _running(layer.module) if layer.is_norm else (cast(Tensor, value) / count).float()
            for layer, value in zip(own, total, strict=True)
        ]
        for own, total in zip(layers, sums, strict=True)
    ]


def _running(module: nn.Module) -> Tensor:
    norm = cast(nn.BatchNorm2d, module)
    return torch.cat([cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)]).float().cpu()
