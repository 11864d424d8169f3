"""Nets that are one row of layers, then a linear classifier: LeNet, AlexNet, VGG11."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ._net import Net

__all__ = ["SequenceNet", "out_side"]


class SequenceNet(Net):
    """Stages applied in order, flattened, then a head."""

    def __init__(self, stages: Sequence[nn.Module], head: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.classifier = classifier

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The stages."""
        return tuple(self.stages)

    def last_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the last ReLU of the stages gives."""
        layers = [layer for stage in self.stages for layer in (stage if isinstance(stage, nn.Sequential) else [stage])]
        end = 1 + max(index for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU))
        maps: Tensor = nn.Sequential(*layers[:end])(images)
        return maps, self.classify(self.gather(nn.Sequential(*layers[end:])(maps)))

    def gather(self, maps: Tensor) -> Tensor:
        """What the last linear layer sees."""
        features: Tensor = self.head(maps.flatten(1))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.classifier(features)
        return logits


def out_side(side: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Side of a map after a convolution or pooling."""
    return (side + 2 * padding - kernel) // stride + 1
