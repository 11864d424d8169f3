"""MLP with two hidden layers of 128, as in the DC and PAD code (PAD's text says one)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from ._net import Family, Net, parse_options

__all__ = ["MLP", "NET"]

HIDDEN = 128


class MLP(Net):
    """Flatten, 128, 128, k; ReLU between.

    Differs from the authors' code in: nothing.
    """

    def __init__(self, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(channels * size * size, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.classifier = nn.Linear(HIDDEN, classes)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Both hidden layers, (b, 128) each."""
        first, second = self.layers
        return (lambda images: functional.relu(first(images.flatten(1))), lambda x: functional.relu(second(x)))

    def gather(self, maps: Tensor) -> Tensor:
        """The second hidden layer, (b, 128)."""
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.classifier(features)
        return logits


class _MlpFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        parse_options("mlp", options, {})
        return "mlp"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        parse_options("mlp", options, {})
        return MLP(channels=channels, size=size, classes=classes)


NET = _MlpFamily()
