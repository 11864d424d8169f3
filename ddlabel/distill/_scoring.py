"""Losses of trained nets on many images: batch norm folded into convolutions, chunks that stay in the cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import seeding
from ..nets._net import Net
from ._real import CACHED_BYTES, LEAST_PASS, MOST_PASS

__all__ = ["Scorer", "folded", "images_at_once", "largest_map"]

AGREEMENT = 1e-3
"""Largest relative difference between the logits of a net and of its folded copy."""


class Scorer:
    """Losses and features of frozen nets.

    Args:
        nets: in eval mode, on one device; they are copied, not changed.
        shape: (c, s, s) of the images.
    """

    def __init__(self, nets: Sequence[Net], shape: Sequence[int]) -> None:
        self.device = next(nets[0].parameters()).device
        self.nets = [folded(net, shape) for net in nets]
        largest = max(largest_map(net, shape) for net in nets)
        self.chunk = images_at_once(largest, self.device)

    def losses(self, images: Tensor, label: int) -> Tensor:
        """-log softmax of the class, the mean over the nets: (b,) float32 of images (b, c, s, s) in model-input space.

        Chunks are of one size but the last, so that a score depends on the net, the image and its place alone.
        """
        return self._by_chunks(images, lambda part: self._losses(part, label))

    def features(self, images: Tensor) -> Tensor:
        """(b, f) features of length 1, of all nets side by side, so that inner products are mean cosines."""

        def embed(part: Tensor) -> Tensor:
            each = [functional.normalize(net.embed(part), dim=1) for net in self.nets]
            return torch.cat(each, dim=1).div(len(each) ** 0.5)

        return self._by_chunks(images, embed)

    def _losses(self, images: Tensor, label: int) -> Tensor:
        each = [-functional.log_softmax(net(images), dim=1)[:, label] for net in self.nets]
        return torch.stack(each).mean(dim=0)

    def _by_chunks(self, images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            made = torch.cat([function(part) for part in images.split(self.chunk)])
        return made.clone()


def folded(net: Net, shape: Sequence[int]) -> Net:
    """A copy of a net in eval mode whose batch norms are part of the convolutions before them.

    A batch norm in eval mode is a scale and a shift per channel. Where a convolution's result goes into one it is taken
    into the convolution; all others stay. Nets in which that result is also used otherwise are left as they are, which
    shows in their logits for noise.

    Args:
        net: frozen, in eval mode.
        shape: (c, s, s) of its images.
    """
    copied = copy.deepcopy(net)
    noise = torch.randn((2, *shape), generator=seeding.generator(0, "folded")).to(next(net.parameters()).device)
    with torch.no_grad():
        before = net(noise)
        for convolution, norm in _pairs(copied, noise):
            _fold(convolution, norm)
            _replace(copied, norm, nn.Identity())
        after = copied(noise)
    close = (after - before).abs().max() <= AGREEMENT * before.abs().max()
    return copied if bool(close) else copy.deepcopy(net)


def images_at_once(largest: int, device: torch.device) -> int:
    """Images of a chunk, by the numbers in the largest map of one."""
    if device.type != "cpu":
        return MOST_PASS
    return max(LEAST_PASS, min(MOST_PASS, CACHED_BYTES // (4 * largest)))


def largest_map(net: Net, shape: Sequence[int]) -> int:
    """Numbers in the largest map of one image (c, s, s)."""
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    bare = copy.deepcopy(net).to("meta")
    for module in bare.modules():
        module.register_forward_hook(note)
    bare(torch.empty((1, *shape), device="meta"))
    return max(sizes)


def _pairs(net: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the batch norms that take their results, each of which runs once."""
    made: list[tuple[Tensor, nn.Conv2d]] = []
    taken: list[tuple[Tensor, nn.BatchNorm2d]] = []
    handles = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(lambda conv, _inputs, output: made.append((output, conv))))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(lambda norm, inputs: taken.append((inputs[0], norm))))
    net(images)
    for handle in handles:
        handle.remove()
    found = [(conv, norm) for result, conv in made for given, norm in taken if given is result]
    runs = [module for _tensor, module in (*made, *taken)]
    return [pair for pair in found if all(sum(run is module for run in runs) == 1 for module in pair)]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Take the scale and shift of a batch norm into the convolution before it; sums in float64."""
    mean, variance = (cast(Tensor, tensor).double() for tensor in (norm.running_mean, norm.running_var))
    scale, shift = (variance + norm.eps).rsqrt(), torch.zeros_like(mean)
    if norm.affine:
        scale, shift = scale * norm.weight.double(), norm.bias.double()
    bias = torch.zeros_like(mean) if convolution.bias is None else convolution.bias.double()
    kind = convolution.weight.dtype
    weight = (convolution.weight.double() * scale[:, None, None, None]).to(kind)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(((bias - mean) * scale + shift).to(kind), requires_grad=False)


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in net.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
