"""What a net loses by not giving the feature that a privileged label says: DCPI's regression, and its alternatives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..options import opt

__all__ = ["Norm", "Objective"]


@dataclass(frozen=True)
class Norm:
    """How labels and features are normalised before they are compared: (x - mean) / scale, element by element."""

    mean: Tensor
    """(c, h, w) float32."""
    scale: Tensor
    """(c, h, w) float32, positive."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """lambda_reg times the distance of features from labels, and the terms of DCPI's Table 13 beside it."""

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

    def __call__(self, features: Tensor, labels: Tensor, hard: Tensor, norm: Norm | None = None) -> Tensor:
        """The weighted sum, a scalar; differentiable in features and labels.

        Args:
            features: (b, *shape), reduced as the labels are.
            labels: (b, *shape).
            hard: (b,) int64 classes, for `supcon`.
            norm: for `zscore`.
        """
        del hard
        if self.norm == "zscore" and norm is not None:
            features, labels = (features - norm.mean) / norm.scale, (labels - norm.mean) / norm.scale
        return self.lambda_reg * (features - labels).square().mean()
