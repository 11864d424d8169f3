"""Nets that are torchvision's: its modules under its own names, with our heads, taps, first values and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Generator, Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ._dropout import Dropout
from ._net import Net, initialise_layer

__all__ = ["AdoptedNet", "FirstValues", "fan_out_values", "own_dropout", "refuse_small", "replace_stem", "without"]

FirstValues = Callable[[nn.Module, Generator], None]
"""Gives the tensors of one layer, not of its children, their first values."""


class AdoptedNet(Net):
    """A torchvision model taken apart into blocks; its state dict has torchvision's names.

    Args:
        model: its children are taken over. Layers that draw from the global generator are replaced by `Dropout`, whose
            buffers are the only names that torchvision does not have.
        blocks: for each block the submodules that it applies in turn.
        head: the submodule that turns embeddings into logits.
        values: torchvision's scheme of first values.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[Sequence[str]], *, head: str, values: FirstValues = initialise_layer
    ) -> None:
        super().__init__()
        own_dropout(model)
        for name, child in model.named_children():
            self.add_module(name, child)
        self._blocks, self._values = tuple(map(tuple, blocks)), values
        self.classifier_name = head

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Its stages, the first with the stem."""
        return tuple(partial(self._in_turn, names) for names in self._blocks)

    def gather(self, maps: Tensor) -> Tensor:
        """Means over space."""
        return functional.adaptive_avg_pool2d(maps, 1).flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """One linear layer, after dropout where torchvision has it."""
        return self._in_turn([self.classifier_name], features)

    def initialise(self, generator: Generator) -> None:
        """As torchvision's constructor draws them, but from the generator."""
        for module in self.modules():
            self._values(module, generator)

    def _in_turn(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


def fan_out_values(module: nn.Module, generator: Generator) -> None:
    """Convolutions normal with variance 2 / fan-out and no bias, all else as torch has it (He et al., 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    else:
        initialise_layer(module, generator)


def replace_stem(model: nn.Module, path: str, *, channels: int, **changes: Any) -> None:
    """Put a first convolution for so many channels in place of the model's, with other options where given."""
    old = model.get_submodule(path)
    if not isinstance(old, nn.Conv2d):
        raise TypeError(f"'{path}' is no convolution")
    options: dict[str, Any] = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
    stem = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **{**options, **changes})
    _put(model, path, stem)


def without(model: nn.Module, path: str) -> None:
    """Take a layer without tensors out of a model."""
    _put(model, path, nn.Identity())


def own_dropout(model: nn.Module) -> None:
    """Put layers that draw from the net's own state in place of those that draw from the global generator."""
    from torchvision.ops import StochasticDepth

    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout | StochasticDepth):
            rows = isinstance(module, StochasticDepth)
            _put(model, path, Dropout(module.p, rows=rows) if module.p else nn.Identity())


def refuse_small(name: str, size: int, *, stride: int, hint: str) -> None:
    """Refuse images whose last maps would be 1 x 1, because batch norm cannot train on one number.

    Args:
        name: of the net.
        size: side of the images in pixels.
        stride: of the last maps in pixels.
        hint: what to use.

    Raises:
        UsageError: the images are too small.
    """
    if math.ceil(size / stride) < 2:
        raise UsageError(
            f"net '{name}' halves images {int(math.log2(stride))} times and needs {stride + 1} px or more, they have "
            f"{size}",
            field="arch",
            hint=hint,
        )


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
