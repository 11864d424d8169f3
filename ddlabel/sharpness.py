"""Training toward flat and smooth nets: FTD's gradient of GSAM, and AST's penalty on input gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

__all__ = ["ascent", "flat_gradient", "frozen_statistics", "input_gradient_penalty", "orthogonal"]

TINY = 1e-12
"""Added to the norm that an ascent step is divided by."""


def flat_gradient(
    parameters: Sequence[nn.Parameter], backward: Callable[[], object], *, rho: float, alpha: float, adaptive: bool
) -> None:
    """Turn the gradient at theta into GSAM's: g1 - alpha * v, v the part of g0 that is orthogonal to g1.

    g0 is the gradient at theta, g1 the one at theta + e with e of `ascent`; all norms are over the parameters jointly
    (Zhuang et al., ICLR 2022, as used in "Minimizing the Accumulated Trajectory Error", arXiv:2211.11004).

    Args:
        parameters: of the net; those that carry a gradient take part. Their values are the same bits afterwards.
        backward: computes the same loss on the same batch again and adds its gradient to the parameters'.
        rho: length of the ascent.
        alpha: share of v that is taken away.
        adaptive: whether the ascent is scaled by the parameters' magnitudes.

    Differs from the authors' code in: v is projected with <g0, g1> / |g1|^2, the same number without two roundings.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    sizes = [parameter.numel() for parameter in moved]
    weights = _joined([parameter.detach() for parameter in moved])
    first = _joined([parameter.grad for parameter in moved])
    try:
        _put(moved, (weights + ascent(weights, first, rho=rho, adaptive=adaptive)).split(sizes))
        for parameter in moved:
            parameter.grad = None
        backward()
    finally:
        _put(moved, weights.split(sizes))
    second = _joined([parameter.grad for parameter in moved])
    mixed = second - alpha * orthogonal(first, second)
    for parameter, part in zip(moved, mixed.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)


def ascent(weights: Tensor, gradient: Tensor, *, rho: float, adaptive: bool) -> Tensor:
    """The step uphill, (p,): rho * s^2 g / (|s g| + 1e-12), s the magnitudes of the weights (p,), or 1."""
    if not adaptive:
        return gradient * (rho / (_length(gradient) + TINY))
    scaled = weights.abs() * gradient
    return weights.abs() * scaled * (rho / (_length(scaled) + TINY))


def orthogonal(first: Tensor, second: Tensor) -> Tensor:
    """The part of `first` (p,) that is orthogonal to `second` (p,); all of it when `second` is zero."""
    square = torch.dot(second, second)
    share = torch.dot(first, second) / square.clamp(min=torch.finfo(square.dtype).tiny)
    return torch.addcmul(first, share, second, value=-1)


def input_gradient_penalty(net: nn.Module, images: Tensor) -> Tensor:
    """Mean over samples and pixels of (|d sum of logits / d x| - 1)^2, the norm over channels; differentiable.

    Running statistics of the net are not touched: they see every batch once (AST, arXiv:2310.10541).

    Args:
        net: in the mode it trains in.
        images: (n, c, h, w), not augmented.
    """
    points = images.detach().requires_grad_(True)
    with frozen_statistics(net):
        total = net(points).sum()
    (slope,) = torch.autograd.grad(total, points, create_graph=True)
    excess: Tensor = torch.linalg.vector_norm(slope, dim=1) - 1
    return excess.square().mean()


@contextlib.contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Batch norms in training go on using the statistics of their batch, and leave the running ones alone."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _joined(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors if tensor is not None])


def _length(values: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values)
    return length


def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value.view_as(parameter))
