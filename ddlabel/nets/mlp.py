"""MLP with two hidden layers of 128, as in the DC and PAD code (PAD's text says one)."""

from __future__ import annotations

from collections.abc import Sequence

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

    def features_by_layer(self, images: Tensor) -> list[Tensor]:
        """Both hidden layers."""
        x, outputs = images.flatten(1), []
        for layer in self.layers:
            x = functional.relu(layer(x))
            outputs.append(x)
        return outputs

    def embed(self, images: Tensor) -> Tensor:
        """The second hidden layer, (b, 128)."""
        return self.features_by_layer(images)[-1]

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
