"""Gradients of the cross-entropy in a net's last, linear layer, image by image, without forming them.

With e = softmax(z) - onehot(y), h what the layer sees and h' = [1; h], the gradient in weights and biases is
g = vec(e h'^T), of k * (1 + f) numbers. Inner products need neither: <g_i, g_j> = <e_i, e_j> * <h'_i, h'_j>.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["HeadGradients", "head_gradients", "head_step"]

DUPLICATE = 1e-12
"""Squared distances below this share of the squared norms are rounding: the gradients are equal."""


@dataclass(frozen=True)
class HeadGradients:
    """Of m images, all in float64 on the CPU."""

    logits: Tensor
    """(m, k)."""
    labels: Tensor
    """(m,) int64."""
    inputs: Tensor
    """(m, 1 + f): a one, and what the last layer sees."""

    @cached_property
    def errors(self) -> Tensor:
        """(m, k) softmax minus one-hot."""
        return self.errors_of(self.logits)

    @cached_property
    def norms(self) -> Tensor:
        """(m,) lengths of the gradients."""
        lengths: Tensor = self.errors.norm(dim=1) * torch.linalg.vector_norm(self.inputs, dim=1)
        return lengths

    def errors_of(self, logits: Tensor) -> Tensor:
        """(m, k) softmax minus one-hot, of other logits (m, k) of the same images."""
        return functional.softmax(logits, dim=1) - functional.one_hot(self.labels, logits.shape[1])

    def inner(self, columns: Tensor) -> Tensor:
        """<g_i, g_j> of all m images with those at columns (q,): (m, q)."""
        return (self.errors @ self.errors[columns].T).mul_(self.inputs @ self.inputs[columns].T)

    def distances(self, columns: Tensor) -> Tensor:
        """||g_i - g_j|| of all m images to those at columns (q,): (m, q), exactly 0 for equal gradients."""
        squares = self.norms.square()
        scale = squares[:, None] + squares[columns]
        square = self.inner(columns).mul_(-2).add_(scale)
        return square.masked_fill_(square <= scale.mul_(DUPLICATE), 0).sqrt_()

    def gains(self, errors: Tensor) -> Tensor:
        """<g_i, mean_v g_v> (m,), the latter with other errors (m, k) of the same images."""
        mean = errors.T @ self.inputs / len(errors)
        return ((self.inputs @ mean.T) * self.errors).sum(dim=1)


def head_gradients(logits: Tensor, labels: Tensor, features: Tensor) -> HeadGradients:
    """The gradients of images by what a net says of them.

    Args:
        logits: (m, k), any float dtype.
        labels: (m,) int64.
        features: (m, f) what the last layer sees, any float dtype.
    """
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    return HeadGradients(logits.double(), labels, torch.cat([ones, features.double()], dim=1))


def head_step(gradients: HeadGradients, chosen: Tensor, lr: float) -> Tensor:
    """Logits (m, k) of all images after one step of gradient descent of the last layer on the chosen ones (q,)."""
    kernel = gradients.inputs @ gradients.inputs[chosen].T
    return gradients.logits - lr / len(chosen) * (kernel @ gradients.errors[chosen])
