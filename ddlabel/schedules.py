"""How a net is trained, in numbers: the recipe, and what it says of every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .options import opt

__all__ = ["Recipe", "loss_factor", "rate", "restarts"]

WARMUP_START = 1e-7
"""First factor of the `glad` schedule."""
AST_RATE = 0.6
"""Last factor of the `ast` schedule."""
CLIPPED_EPOCHS = 10
"""Epochs in which `loss_decay` makes the loss smaller."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained."""

    optimizer: str = opt(
        "sgd",
        "sgd, adam (L2 decay), adamw (decoupled decay) or gsam (sgd toward flat minima, two gradients a step)",
        choices=("sgd", "adam", "adamw", "gsam"),
    )
    lr: float = opt(0.01, "learning rate before the schedule", above=0)
    momentum: float = opt(0.0, "momentum of sgd and gsam; adam and adamw keep betas 0.9 and 0.999", min=0, below=1)
    weight_decay: float = opt(0.0, "weight decay", min=0)
    schedule: str = opt(
        "constant",
        "learning rate over time: constant, cosine, half-cosine (RDED), step (DC), gift, glad, ast",
        choices=("constant", "cosine", "half-cosine", "step", "gift", "glad", "ast"),
    )
    epochs: int = opt(50, "epochs E; 'step' runs E + 1, as its authors do", min=1, max=1_000_000)
    batch: int = opt(256, "samples per step", min=1, max=1_000_000)
    augment: str = opt("dsa", "augmentation: none, flip, crop-flip, resized-crop, dsa, dsa-composite")
    ema: bool = opt(False, "return weights averaged over epochs (GLaD)")
    decay: str = opt(
        "all",
        "what weight decay acts on: all parameters, or weights, those with more than one axis (no biases, no norms)",
        choices=("all", "weights"),
    )
    rho: float = opt(0.01, "gsam: length of the step uphill", min=0)
    alpha: float = opt(0.3, "gsam: share of the gradient across the flat direction that is taken away", min=0)
    adaptive: bool = opt(True, "gsam: scale the step uphill by the magnitudes of the weights")
    loss_decay: bool = opt(False, "multiply the loss by 0.50, 0.55 to 0.95 in the first ten epochs (AST)")
    gradient_penalty: float = opt(
        0.0, "weight of (norm of input gradients - 1)^2 on images without augmentation; AST's is 2, 0 is off", min=0
    )

    @property
    def rounds(self) -> int:
        """Epochs that are really run: DC's loop counts from 0 to E inclusive."""
        return self.epochs + 1 if self.schedule == "step" else self.epochs


def rate(recipe: Recipe, epoch: int) -> float:
    """Factor of the learning rate in an epoch, from 0, of a recipe of E epochs.

    `cosine`: to 0 over E. `half-cosine`: the first half of a cosine over 2E, to 1/2 (RDED). `step`: 0.1 after epoch
    E//2+1. `gift`: 0.2 at 2E//3 and again at 5E//6. `glad`: linear from 1e-7 to 1 over E//2 epochs, held for one more,
    then cosine to 0 over E//2. `ast`: 0.6 after epoch E//2+1, with the momentum kept.

    Differs from the authors' code in: nothing; the held epoch is GLaD's scheduler being switched one step late.
    """
    length, half = recipe.epochs, max(1, recipe.epochs // 2)
    if recipe.schedule == "step":
        return 0.1 if epoch > length // 2 + 1 else 1.0
    if recipe.schedule == "ast":
        return AST_RATE if epoch > length // 2 + 1 else 1.0
    if recipe.schedule == "gift":
        return float(0.2 ** ((epoch >= 2 * length // 3) + (epoch >= 5 * length // 6)))
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / length))
    if recipe.schedule == "half-cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / (2 * length)))
    if recipe.schedule == "glad" and epoch <= half:
        return WARMUP_START + (1 - WARMUP_START) * epoch / half
    if recipe.schedule == "glad":
        return 0.5 * (1 + math.cos(math.pi * (epoch - half - 1) / half))
    return 1.0


def loss_factor(recipe: Recipe, epoch: int) -> float:
    """What the loss is multiplied by in an epoch, from 0: with `loss_decay` 0.50, 0.55 to 0.95, then 1 (AST)."""
    return 0.5 + 0.05 * epoch if recipe.loss_decay and epoch < CLIPPED_EPOCHS else 1.0


def restarts(recipe: Recipe, epoch: int) -> bool:
    """DC makes a new optimiser when the rate drops, which forgets the momentum."""
    return recipe.schedule == "step" and epoch == recipe.epochs // 2 + 2
