"""ZCA whitening as MTT, DATM and PAD use it: fitted on training pixels in [0, 1], strong regularisation.

With mean mu and covariance U diag(s) U^T of the flattened images, T = U diag((s + eps)^-1/2) U^T and
whiten(z) = (z - mu) T. Differs from the authors' code (kornia) in: eigenvectors in float64, a fixed chunk order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .data._stored_pixels import Pixels
from .errors import UsageError

__all__ = ["MAX_FEATURES", "Zca", "fit_zca"]

MAX_FEATURES = 16_384
"""Largest d = c*h*w that is whitened: the matrix has d^2 entries and its eigenvectors cost d^3."""
_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Zca:
    """A fitted whitening."""

    mean: Tensor
    """(1, d) float32, in [0, 1]."""
    matrix: Tensor
    """(d, d) float32, symmetric."""
    inverse: Tensor
    """(d, d) float32, symmetric."""
    epsilon: float

    def __eq__(self, other: object) -> bool:
        """Whether it is the same transform to the bit, on whatever device."""
        if not isinstance(other, Zca):
            return NotImplemented
        pairs = ((self.mean, other.mean), (self.matrix, other.matrix), (self.inverse, other.inverse))
        return self.epsilon == other.epsilon and all(torch.equal(ours.cpu(), theirs.cpu()) for ours, theirs in pairs)

    def __hash__(self) -> int:
        """Of what is cheap to look at."""
        return hash((self.epsilon, tuple(self.matrix.shape)))

    def whiten(self, units: Tensor) -> Tensor:
        """From [0, 1] units to whitened images, both (n, c, h, w) float32."""
        return ((units.flatten(1) - self.mean) @ self.matrix).reshape(units.shape)

    def unwhiten(self, images: Tensor) -> Tensor:
        """Back to units; not clamped."""
        return (images.flatten(1) @ self.inverse + self.mean).reshape(images.shape)


def fit_zca(pixels: Pixels, epsilon: float = 0.1) -> Zca:
    """Fit on uint8 pixels (n, c, h, w), n >= 2; covariance with n - 1, in float64.

    Raises:
        UsageError: too many features, fewer than two images, or a regularisation that is not positive.
    """
    features = pixels[0].numel()
    if features > MAX_FEATURES:
        raise UsageError(
            f"ZCA of images with {features} values, expected at most {MAX_FEATURES}",
            field="space",
            hint="use --space normalised, or a smaller --size",
        )
    if len(pixels) < 2 or epsilon <= 0:
        raise UsageError(f"ZCA of {len(pixels)} images with epsilon {epsilon}, expected 2 or more and epsilon > 0")
    total = torch.zeros(features, dtype=torch.float64)
    for chunk in pixels.split(_CHUNK):
        total += chunk.flatten(1).double().sum(dim=0)
    mean = total / len(pixels) / 255
    covariance = torch.zeros(features, features, dtype=torch.float64)
    for chunk in pixels.split(_CHUNK):
        centred = chunk.flatten(1).double() / 255 - mean
        covariance.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(covariance / (len(pixels) - 1))
    scale = values.clamp(min=0) + epsilon
    matrix = (vectors * scale.rsqrt()) @ vectors.T
    inverse = (vectors * scale.sqrt()) @ vectors.T
    return Zca(mean[None].float(), matrix.float(), inverse.float(), epsilon)
