"""GIFT's label refinement and cosine loss (Shang et al., 2024, arXiv:2405.14736): pure functions of labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["cosine_loss", "refine_labels", "smooth_labels"]


def smooth_labels(hard: Tensor, classes: int, alpha: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """1 - alpha for the class, alpha/(k - 1) for the others: (b, k). Unlike torch's smoothing, not over all k."""
    off = alpha / (classes - 1) if classes > 1 else 0.0
    smooth = torch.full((len(hard), classes), off, dtype=dtype, device=hard.device)
    return smooth.scatter_(1, hard[:, None], 1 - alpha)


def refine_labels(label: Tensor, hard: Tensor, *, alpha: float, gamma: float, form: str) -> Tensor:
    """Mix each label with the smoothed hard label, both L2-normalised.

    Args:
        label: (b, k) logits or probabilities, never converted.
        hard: (b,) int64 classes.
        alpha: smoothing, in [0, 1).
        gamma: weight of the smoothed hard label, in [0, 1].
        form: `paper` weighs gamma and 1 - gamma; `code` weighs gamma and 1, which has the direction of the paper's
            form at gamma/(1 + gamma).

    Returns:
        (b, k), L2-normalised, so that codecs see values of one scale; the cosine loss does not notice.
    """
    smooth = functional.normalize(smooth_labels(hard, label.shape[1], alpha, label.dtype), dim=1)
    weight = 1.0 if form == "code" else 1.0 - gamma
    return functional.normalize(gamma * smooth + weight * functional.normalize(label, dim=1), dim=1)


def cosine_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - cos(s, y), mean over the batch; invariant to the scale of both sides."""
    return 1 - functional.cosine_similarity(logits, label, dim=1).mean()
