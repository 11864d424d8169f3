"""Data densification: images of a class that lie close together are pushed apart (G-VBSM, arXiv:2311.17950)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["densify"]

SIDE = 32
"""Pixels to which images are pooled."""


def densify(images: Tensor, labels: Tensor, *, tau: float, raw: bool = False) -> Tensor:
    """L_DD: sum over classes of KL(q || p), p = softmax(e), q = softmax(e / tau) without gradient.

    e are the eigenvalues of the Gram matrix of a class's images, pooled to at most 32 px, over the number of their
    values: 1 each for unrelated images of unit variance, and n and zeros for n copies of one. Flatter eigenvalues mean
    images in more directions. A class with one image gives 0.

    Args:
        images: (b, c, h, w) in model-input space.
        labels: (b,) int64.
        tau: temperature of q.
        raw: leave the Gram matrix as it is, as the authors' code does: its eigenvalues are of the order of thousands,
            the softmax saturates, and both loss and gradient vanish for all but nearly equal ones.

    Returns:
        Scalar; its gradients are finite for equal eigenvalues too, because only eigenvalues are used.

    Differs from the authors' code in: the division of the Gram matrix; a solver for symmetric matrices, where it drops
    the imaginary part of a general one's results; images below 32 px are not enlarged.
    """
    height, width = (min(SIDE, side) for side in images.shape[2:])
    pooled = functional.adaptive_avg_pool2d(images, (height, width)).flatten(1)
    order = labels.argsort(stable=True)
    _classes, counts = labels.unique(return_counts=True)
    groups = order.split(counts.tolist())
    total = images.new_zeros(())
    for count in sorted({len(group) for group in groups} - {1}):
        alike = pooled[torch.stack([group for group in groups if len(group) == count])]
        gram = alike @ alike.transpose(1, 2)
        total = total + _divergence(gram if raw else gram / pooled.shape[1], tau)
    return total


def _divergence(gram: Tensor, tau: float) -> Tensor:
    """Sum of KL(q || p) of the eigenvalues of Gram matrices (g, n, n)."""
    values = torch.linalg.eigvalsh(gram)
    target = functional.log_softmax(values.detach() / tau, dim=1)
    return (target.exp() * (target - functional.log_softmax(values, dim=1))).sum()
