"""Losses of trained nets on many images: batch norm folded into convolutions, chunks that stay in the cache.

Nets that pool maps run channels last, where pooling is several times faster on a CPU; those of convolutions alone do
not, which are a fifth slower so. Activations overwrite what they are given.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .. import seeding
from ..nets._net import Net
from ._real import CACHED_BYTES, LEAST_PASS, MOST_PASS

__all__ = ["Scorer", "folded", "images_at_once", "largest_map", "memory_format"]

AGREEMENT = 1e-4
"""Largest difference between the logits of a net and of its faster copy, relative to the largest logit."""


class Scorer:
    """Losses and features of frozen nets.

    Args:
        nets: in eval mode, on one device; they are copied, not changed.
        shape: (c, s, s) of the images.
    """

    def __init__(self, nets: Sequence[Net], shape: Sequence[int]) -> None:
        self.device = next(nets[0].parameters()).device
        self.formats = [memory_format(net, shape) for net in nets]
        self.nets = [
            folded(net, shape).to(memory_format=layout) for net, layout in zip(nets, self.formats, strict=True)
        ]
        self.modes = [_InPlace if _takes_overwriting(net, shape) else contextlib.nullcontext for net in self.nets]
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
            each = [functional.normalize(made, dim=1) for made in self._of_each("embed", part)]
            return torch.cat(each, dim=1).div(len(each) ** 0.5)

        return self._by_chunks(images, embed)

    def _losses(self, images: Tensor, label: int) -> Tensor:
        each = [-functional.log_softmax(logits, dim=1)[:, label] for logits in self._of_each("forward", images)]
        return torch.stack(each).mean(dim=0)

    def _of_each(self, method: str, images: Tensor) -> list[Tensor]:
        """What a method of each net gives."""
        made = []
        for net, mode, layout in zip(self.nets, self.modes, self.formats, strict=True):
            with mode():
                made.append(getattr(net, method)(images.clone(memory_format=layout)))  # may be overwritten
        return made

    def _by_chunks(self, images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            made = torch.cat([function(part) for part in images.split(self.chunk)])
        return made.clone()


class _InPlace(TorchFunctionMode):
    """Rectifiers overwrite their input: a third of a pass is fetching memory for their results otherwise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.relu:
            return args[0].relu_()
        return func(*args, **(kwargs or {}))


class _Pools(TorchFunctionMode):
    """Notices pooling of maps."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or getattr(func, "__name__", "") in {"avg_pool2d", "max_pool2d"}
        return func(*args, **(kwargs or {}))


def memory_format(net: Net, shape: Sequence[int]) -> torch.memory_format:
    """The layout that a net runs fastest in: channels last, but plain on a CPU for a net that pools nothing.

    Args:
        net: in eval mode.
        shape: (c, s, s) of its images.
    """
    noise = _noise(net, shape).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), _Pools() as pools:
        net(noise)
    return torch.channels_last if pools.seen or noise.device.type != "cpu" else torch.contiguous_format


def _takes_overwriting(net: Net, shape: Sequence[int]) -> bool:
    """Whether the logits for noise stay the same: nothing else needs what a rectifier is given."""
    noise = _noise(net, shape)
    with torch.no_grad():
        before = net(noise.clone())
        with _InPlace():
            return _close(net(noise.clone()), before)


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
    noise = _noise(net, shape)
    with torch.no_grad():
        before = net(noise)
        for convolution, norm in _pairs(copied, noise):
            _fold(convolution, norm)
            _replace(copied, norm, nn.Identity())
        after = copied(noise)
    return copied if _close(after, before) else copy.deepcopy(net)


def _noise(net: Net, shape: Sequence[int]) -> Tensor:
    """Two images (2, c, s, s) to compare nets by."""
    noise = torch.randn((2, *shape), generator=seeding.generator(0, "folded"))
    return noise.to(next(net.parameters()).device)


def _close(logits: Tensor, expected: Tensor) -> bool:
    return bool((logits - expected).abs().max() <= AGREEMENT * expected.abs().max())


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
