"""What a net loses by not giving the feature that a privileged label says: DCPI's regression, and its alternatives.

Source: DCPI (Dataset Condensation using Privileged Information; earlier DRUPI), Eq. (3) for the regression and
Table 13 for the terms beside it. All terms take features (b, *shape) and labels (b, *shape), are finite, and are
differentiable in both, twice: labels are learned through unrolled students.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..options import opt
from ._form import Form, describe_shape

__all__ = ["Norm", "Objective", "ce_feat", "cosine", "fit_norm", "infonce", "mmd", "mse", "supcon"]

TEMPERATURE = 0.07
"""Of InfoNCE and of the supervised contrastive term."""
BANDWIDTHS = (10.0, 15.0, 20.0, 50.0)
"""Of the kernels of `mmd`: the variances in exp(-d^2 / (2 s))."""
LEAST_NORM = 1e-4
"""Vectors much shorter than this count as zero: a dead position has no direction, and its gradient stays finite."""
LEAST_SCALE = 0.1
"""Of `fit_norm`: least scale of an element, as a part of the rms over elements."""
EXCLUDED = -1e9
"""Logit of a pair that does not count; finite, so that a batch of one has a gradient."""


@dataclass(frozen=True)
class Norm:
    """How labels and features are normalised before they are compared: (x - mean) / scale, element by element."""

    mean: Tensor
    """(c, h, w) float32."""
    scale: Tensor
    """(c, h, w) float32, positive."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """lambda_reg times the distance of features from labels, and the terms of DCPI's Table 13 beside it.

    `norm` applies to the distance alone: the terms beside it normalise as they are defined.

    Differs from the authors' code in: InfoNCE has a gradient (theirs adds plain numbers); `ce` weighs labels as
    distributions and comes beside the distance, not in its place; no pooling is hidden in the distance.
    """

    lambda_reg: float = opt(0.5, "weight of the regression of features on labels", min=0)
    metric: str = opt("mse", "distance of a feature from its label", choices=("mse", "cosine", "mmd"))
    norm: str = opt(
        "none",
        "before the distance: none, zscore (per element, fixed with the labels) or l2 (over channels)",
        choices=("none", "zscore", "l2"),
    )
    ce: float = opt(0.0, "weight of the cross entropy of features as distributions over channels", min=0)
    infonce: float = opt(0.0, "weight of InfoNCE between features and labels of a batch", min=0)
    supcon: float = opt(0.0, "weight of the supervised contrastive term of a batch", min=0)

    @property
    def is_affine(self) -> bool:
        """Whether the gradient in the net's parameters is affine in the labels (Fact D)."""
        return self.metric == "mse" and self.norm != "l2" and not (self.ce or self.infonce or self.supcon)

    def check(self, form: Form) -> None:
        """Refuse terms that mean nothing for labels of this form.

        Raises:
            UsageError: `l2` or `ce` for labels of one channel; angles between labels of one number.
        """
        channels, height, width = form.shape
        for field, used in (("norm", self.norm == "l2"), ("ce", self.ce > 0)):
            if used and channels == 1:
                raise UsageError(
                    f"{field} works over channels, labels of shape {describe_shape(form.shape)} have one",
                    field=field,
                    hint="use whole features or --set attention=channel",
                )
        angles = {"metric": self.metric == "cosine", "infonce": self.infonce > 0, "supcon": self.supcon > 0}
        for field, used in angles.items():
            if used and channels * height * width == 1:
                raise UsageError(
                    f"{field} compares directions, labels of shape {describe_shape(form.shape)} are single numbers",
                    field=field,
                    hint="use whole features, or leave the term out",
                )

    def __call__(self, features: Tensor, labels: Tensor, hard: Tensor, norm: Norm | None = None) -> Tensor:
        """The weighted sum, a scalar; differentiable in features and labels.

        Args:
            features: (b, *shape), reduced as the labels are.
            labels: (b, *shape).
            hard: (b,) int64 classes, for `supcon`.
            norm: for `zscore`.

        Raises:
            UsageError: `zscore` without the mean and scale that belong to the labels.
        """
        total = self.lambda_reg * DISTANCES[self.metric](*self._normalised(features, labels, norm))
        if self.ce:
            total = total + self.ce * ce_feat(features, labels)
        if self.infonce:
            total = total + self.infonce * infonce(features, labels)
        if self.supcon:
            total = total + self.supcon * supcon(features, labels, hard)
        return total

    def _normalised(self, features: Tensor, labels: Tensor, norm: Norm | None) -> tuple[Tensor, Tensor]:
        if self.norm == "l2":
            return _unit(features, 1), _unit(labels, 1)
        if self.norm == "none":
            return features, labels
        if norm is None:
            raise UsageError(
                "norm zscore needs a mean and a scale per element, these labels have none",
                field="norm",
                hint="use --set norm=none, or learn the labels with --set norm=zscore",
            )
        mean, scale = norm.mean.to(features), norm.scale.to(features)
        return (features - mean) / scale, (labels - mean) / scale


def fit_norm(values: Tensor) -> Norm:
    """Mean and standard deviation of each element over all labels.

    Args:
        values: (..., c, h, w), the labels that all students will be compared with.

    Returns:
        Float32 (c, h, w), on the device of the labels. Elements that hardly vary (dead channels) get a tenth of the rms
        scale of all elements, so that a student that is alive there does not drown the rest; where nothing varies, the
        scale is 1.
    """
    flat = values.detach().cpu().double().reshape(-1, *values.shape[-3:])
    scale = flat.var(0, correction=0).sqrt()
    floor = LEAST_SCALE * scale.square().mean().sqrt()
    scale = torch.where(floor > 0, torch.maximum(scale, floor), torch.ones_like(scale))
    return Norm(mean=flat.mean(0).float().to(values.device), scale=scale.float().to(values.device))


def mse(features: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch and all elements, Eq. (3) of DCPI."""
    return (features - labels).square().mean()


def cosine(features: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of 1 - cos of the flattened feature and its label, in [0, 2]."""
    return 1 - (_directions(features) * _directions(labels)).sum(1).mean()


def mmd(features: Tensor, labels: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the batch of features and the batch of labels, flattened.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y) with k(x, y) = sum over s of exp(-|x - y|^2 / (2 s)) and
    s in 10, 15, 20, 50: the biased estimate of Gretton et al. (JMLR 13, 2012), all pairs counted. At least 0.
    """
    x, y = features.flatten(1), labels.flatten(1)
    return _kernel(x, x).mean() + _kernel(y, y).mean() - 2 * _kernel(x, y).mean()


def ce_feat(features: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of softmax(features) under softmax(labels) over channels, mean over batch and positions.

    Differs from the authors' code in: labels go through a softmax (theirs are raw targets).
    """
    return -(labels.softmax(1) * functional.log_softmax(features, 1)).sum(1).mean()


def infonce(features: Tensor, labels: Tensor) -> Tensor:
    """Each feature finds its own label among the labels of the batch by cosine at temperature 0.07; a mean.

    InfoNCE of van den Oord et al. (arXiv:1807.03748).
    """
    similarity = _directions(features) @ _directions(labels).T / TEMPERATURE
    return (similarity.logsumexp(1) - similarity.diagonal()).mean()


def supcon(features: Tensor, labels: Tensor, hard: Tensor) -> Tensor:
    """Each feature finds the labels of the other images of its class, by cosine at temperature 0.07.

    Khosla et al. (arXiv:2004.11362), the sum over positives outside the logarithm. Anchors are the features,
    candidates the labels of all other images; an anchor alone in its class contributes 0 and still counts in the mean
    (at ipc 1 the term is 0). With the labels as features it is the contrastive term of the labels themselves.

    Args:
        features: (b, ...), the anchors.
        labels: (b, ...), the candidates.
        hard: (b,) int64 classes.
    """
    own = torch.eye(len(hard), dtype=torch.bool, device=features.device)
    similarity = (_directions(features) @ _directions(labels).T / TEMPERATURE).masked_fill(own, EXCLUDED)
    log_chance = similarity - similarity.logsumexp(1, keepdim=True)
    positives = ((hard[:, None] == hard[None, :]) & ~own).to(features.dtype)
    return -((positives * log_chance).sum(1) / positives.sum(1).clamp_min(1)).mean()


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "cosine": cosine, "mmd": mmd}
"""By the names of `metric`."""


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """(n, m): the sum of the kernels."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * x @ y.T
    distances = squares.clamp_min(0)
    return torch.stack([(-distances / (2 * bandwidth)).exp() for bandwidth in BANDWIDTHS]).sum(0)


def _directions(values: Tensor) -> Tensor:
    """(b, d), rows of length 1."""
    return _unit(values.flatten(1), 1)


def _unit(values: Tensor, axis: int) -> Tensor:
    return values / (values.square().sum(axis, keepdim=True) + LEAST_NORM**2).sqrt()
