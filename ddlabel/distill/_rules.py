"""Rules of trajectory matching: start ranges, batches of the student, masks, and AST's changes of the student."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..errors import BundleError
from ..nets._net import Net
from ._gradients import left_out
from ._unroll import Waypoint

__all__ = ["balance", "check_progress", "draw_batches", "mask_of", "outputs", "perturbed", "upper_start"]

NO_PROGRESS = 1e-12
"""An expert that moves less than this share of its squared norm stands still: the loss would divide by nothing."""


def upper_start(index: int, *, first: int, last: int, interval: int) -> int:
    """U(it): the epoch before which students of outer step `index`, from 0, start (DATM, arXiv:2310.05773).

    Args:
        index: outer steps done.
        first: T, where the range ends at first.
        last: T+, where it ends at last.
        interval: outer steps after which it grows by one epoch.
    """
    return min(last, first + index // interval)


def draw_batches(count: int, size: int, steps: int, generator: Generator) -> tuple[Tensor, ...]:
    """Batches of a student: each permutation of all images is cut into chunks that are used from its end.

    So a short chunk comes first; when a permutation is used up, the next one is drawn.

    Returns:
        `steps` index tensors (size,) or shorter, int64.
    """
    batches: list[Tensor] = []
    chunks: list[Tensor] = []
    for _step in range(steps):
        if not chunks:
            chunks = list(torch.randperm(count, generator=generator).split(size))
        batches.append(chunks.pop())
    return tuple(batches)


def mask_of(kind: str, share: float) -> Callable[[Tensor], Tensor] | None:
    """FIEM (PAD, arXiv:2408.03360): from the squared errors (P,) to ones for the parameters that count.

    Args:
        kind: `depth` drops the first floor(share P) parameters, `deep` the last, `loss` those with the least error.
        share: in [0, 1).

    Returns:
        The function, or None when all parameters count.
    """
    if kind == "none" or share == 0:
        return None

    def keep(errors: Tensor) -> Tensor:
        count = len(errors)
        dropped = left_out(share, count)
        kept = torch.ones_like(errors)
        if kind == "depth":
            kept[:dropped] = 0
        elif kind == "deep":
            kept[count - dropped :] = 0
        else:
            kept[errors.argsort(stable=True)[:dropped]] = 0
        return kept

    return keep


def outputs(net: Net, parameters: Tensor, images: Tensor) -> Tensor:
    """Logits of images by a net, which takes these parameters for its own."""
    torch.nn.utils.vector_to_parameters(parameters, net.parameters())
    with torch.no_grad():
        return torch.cat([net(part) for part in images.split(256)])


def perturbed(net: Net, theta: Tensor, amount: float, generator: Generator) -> Tensor:
    """W + a (d / |d|) W on convolution weights, d normal noise (AST)."""
    result, at = theta.clone(), 0
    for value in net.parameters():
        part = result[at : at + value.numel()]
        if value.ndim == 4:
            noise = torch.randn(value.numel(), generator=generator).to(part)
            part += amount * noise / noise.norm() * part
        at += value.numel()
    return result


def balance(start: int, upper: int) -> float:
    """AST's factor of the student's loss: log5(8 + d) at d epochs past the middle of the range, 1 over it before."""
    half = upper // 2
    factor = math.log(abs(start - half) + 8, 5)
    return factor if start >= half else 1 / factor


def check_progress(name: str, epoch: int, start: Tensor, waypoints: tuple[Waypoint, ...]) -> None:
    for waypoint in waypoints:
        moved = float((start - waypoint.parameters).square().sum())
        if moved < NO_PROGRESS * float(start.square().sum()):
            raise BundleError(
                f"{name} does not move from epoch {epoch} to its target (squared distance {moved:g})",
                field="trajectories",
                hint="lower --set max_start_epoch, or train experts with a larger step size",
            )
