"""What batch norms see of a batch, against what they saw of real images: R_bn of SRe2L (arXiv:2306.13092)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ._method import Problem
from ._real import encoded

__all__ = ["NormStatistics", "channel_moments", "class_statistics", "norm_layers", "refitted"]

REFIT_BATCH = 256
"""Images whose statistics are averaged when running statistics are estimated anew."""
CHUNK = 64
"""Images in a pass whose size changes nothing."""


class _Moments(torch.autograd.Function):
    """Mean and biased variance of every channel, with a backward pass of one multiplication and one addition.

    `torch.var_mean` takes several times as long on a CPU, more than the convolution before it.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        mean = maps.mean(dim=(0, 2, 3))
        centred = maps - mean[:, None, None]
        var = torch.linalg.vector_norm(centred.flatten(2), dim=2).square().sum(dim=0) / (maps.numel() // len(mean))
        ctx.save_for_backward(maps, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_var: Tensor) -> Tensor:
        maps, mean = ctx.saved_tensors
        count = maps.numel() // len(mean)
        slope = 2 / count * to_var
        return torch.addcmul((to_mean / count - slope * mean)[:, None, None], maps, slope[:, None, None])


def channel_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over batch and pixels of maps (b, c, h, w): (c,) each, differentiable once."""
    mean, var = _Moments.apply(maps)
    return mean, var


def norm_layers(net: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch norms that have running statistics, by name, in the order of the modules."""
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None
    }


@dataclass(frozen=True)
class NormStatistics:
    """Statistics of the inputs of a net's batch norms, and their distance from those of real images.

    Statistics of all layers are one tensor (2, f): means, then variances, layer after layer, f channels in all.
    """

    net: nn.Module
    """In eval mode, frozen."""
    first_weight: float = 10.0
    """w of the first batch norm in the order of the modules; 1 for all others."""
    skipped: int = 0
    """Batch norms, shallowest first, whose distance does not count."""

    @property
    def widths(self) -> list[int]:
        """Channels of every layer."""
        return [layer.num_features for layer in norm_layers(self.net).values()]

    def running(self) -> Tensor:
        """The net's own running statistics, (2, f)."""
        layers = norm_layers(self.net).values()
        both = ([getattr(layer, name) for layer in layers] for name in ("running_mean", "running_var"))
        return torch.stack([torch.cat(values) for values in both]).detach().clone()

    def seen(self, images: Tensor, running: Tensor | None = None) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
        """Logits (b, k) of images (b, c, h, w), and mean and biased variance of every layer's input, by its number.

        Args:
            images: differentiable in them.
            running: (2, f) to normalise with instead of the net's own; None for those.
        """
        found: dict[int, tuple[Tensor, Tensor]] = {}
        handles = [
            layer.register_forward_pre_hook(_note(found, number))
            for number, layer in enumerate(norm_layers(self.net).values())
            if number >= self.skipped
        ]
        try:
            logits = (
                self.net(images) if running is None else functional_call(self.net, self._buffers(running), (images,))
            )
        finally:
            for handle in handles:
                handle.remove()
        return logits, found

    def distance(self, found: Mapping[int, tuple[Tensor, Tensor]], wanted: Tensor) -> Tensor:
        """R_bn: the sum over layers of w (|mean - mean'| + |var - var'|), Euclidean norms, not squared.

        Args:
            found: of `seen`.
            wanted: (2, f).
        """
        parts = wanted.split(self.widths, dim=1)
        terms = [
            (self.first_weight if number == 0 else 1.0)
            * (torch.linalg.vector_norm(mean - parts[number][0]) + torch.linalg.vector_norm(var - parts[number][1]))
            for number, (mean, var) in found.items()
        ]
        return torch.stack(terms).sum()

    def _buffers(self, running: Tensor) -> dict[str, Tensor]:
        named = zip(norm_layers(self.net), running.split(self.widths, dim=1), strict=True)
        return {
            f"{name}.{buffer}": values
            for name, both in named
            for buffer, values in zip(("running_mean", "running_var"), both, strict=True)
        }


def _note(found: dict[int, tuple[Tensor, Tensor]], number: int) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[number] = channel_moments(inputs[0])

    return hook


def refitted(net: nn.Module, problem: Problem, generator: Generator) -> Tensor:
    """Running statistics (2, f) that the real images of a problem give a net: one epoch, each batch counting alike.

    The net is left as it is. Batches are shuffled, so that each is of all classes; only batch norms are in train mode.
    """
    twin = copy.deepcopy(net).eval()
    for layer in norm_layers(twin).values():
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    order = torch.randperm(len(problem.labels), generator=generator)
    with torch.no_grad():
        for chunk in order.tensor_split(math.ceil(len(order) / REFIT_BATCH)):
            twin(encoded(problem, chunk))
    return NormStatistics(twin).running()


def class_statistics(statistics: NormStatistics, problem: Problem, running: Tensor | None) -> Tensor:
    """What each layer sees of the real images of each class, (k, 2, f) float32: exact moments of all of them.

    Args:
        statistics: of a net.
        problem: whose images are read class by class, 64 at a time.
        running: what the net normalises with, as in `NormStatistics.seen`.
    """
    whole = NormStatistics(statistics.net)
    with torch.no_grad():
        rows = [
            _pooled(list(_chunks(whole, problem, problem.members(label), running)), problem.device)
            for label in range(len(problem.classes))
        ]
    return torch.stack(rows)


def _chunks(
    whole: NormStatistics, problem: Problem, members: Tensor, running: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    for chunk in members.split(CHUNK):
        found = whole.seen(encoded(problem, chunk), running)[1]
        both = ([found[number][which] for number in range(len(whole.widths))] for which in (0, 1))
        yield len(chunk), torch.stack([torch.cat(values) for values in both]).double().cpu()


def _pooled(parts: Sequence[tuple[int, Tensor]], device: torch.device) -> Tensor:
    """Moments (2, f) of chunks together; every image has the same number of pixels."""
    counts = torch.tensor([count for count, _both in parts], dtype=torch.float64)
    shares = (counts / counts.sum())[:, None]
    means, variances = torch.stack([both for _count, both in parts]).unbind(dim=1)
    mean = (shares * means).sum(dim=0)
    var = (shares * (variances + (means - mean).square())).sum(dim=0)
    return torch.stack([mean, var]).float().to(device)
