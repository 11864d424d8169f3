"""What a net is here, and how one is built from its name with every parameter drawn from a given generator."""

from __future__ import annotations

import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from .. import _plugins
from ..errors import UsageError, suggest
from ._dropout import Dropout

__all__ = [
    "Family",
    "Net",
    "build",
    "calibrate_norms",
    "canonical",
    "default_arch",
    "initialise_layer",
    "make_norm",
    "mixes_samples",
    "on_meta",
    "parse_options",
]

NORMS = {
    "in": "instance", "instance": "instance", "bn": "batch", "batch": "batch", "ln": "layer", "layer": "layer",
    "gn": "group", "group": "group", "none": "none", "nonorm": "none",
}  # fmt: skip
"""Spellings of the normalisation layers."""
GROUPS = 4
"""Groups of `group` normalisation."""


class Net(nn.Module, ABC):
    """A classifier of images (b, c, h, w) float32."""

    notes: tuple[str, ...] = ()
    """What a user should know of this net at this image size."""
    classifier_name: str = "classifier"
    """The submodule whose parameters are those of `classify`."""
    gives_tokens: bool = False
    """Whether blocks give tokens as maps (b, width, tokens, 1), which do not lie as the image does."""

    @abstractmethod
    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, first to last: the first takes images, the others what the one before gave.

        A block gives maps (b, c, h, w) or vectors (b, f); it can be tapped after each.
        """

    @abstractmethod
    def gather(self, maps: Tensor) -> Tensor:
        """(b, f): the embedding, of what the last block gave."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """(b, k) logits of embeddings (b, f)."""

    def features_by_layer(self, images: Tensor) -> list[Tensor]:
        """Outputs of the blocks, first to last."""
        outputs = []
        for block in self.chain():
            images = block(images)
            outputs.append(images)
        return outputs

    def embed(self, images: Tensor) -> Tensor:
        """(b, f): what the classifier sees."""
        return self.gather(self._through(images, 0, None))

    def tap(self, images: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """What block `layer`, from 1, gives, and the logits (b, k), in one forward pass."""
        maps = self._through(images, 0, layer)
        return maps, self.rest(maps, layer)

    def rest(self, maps: Tensor, layer: int) -> Tensor:
        """(b, k) logits of what block `layer`, from 1, gave: the part of the net after the tap."""
        return self.classify(self.gather(self._through(maps, layer, None)))

    def last_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the last activation before the last pooling gives, and the logits (b, k) that depend on it.

        Maps (b, c, h, w); a net that ends otherwise gives something of other rank, or tokens (`gives_tokens`).
        """
        return self.tap(images, len(self.chain()))

    def taps(self, images: Tensor) -> list[Tensor]:
        """Outputs of every single layer, shallow to deep; the last one, flattened, is the embedding.

        Raises:
            UsageError: a net that does not offer them.
        """
        del images
        raise UsageError(
            f"net '{type(self).__name__}' has no taps after single layers, expected a ConvNet",
            field="arch",
            hint="use --arch convnet",
        )

    def forward(self, images: Tensor) -> Tensor:
        """(b, k) logits."""
        return self.classify(self.embed(images))

    def initialise(self, generator: Generator) -> None:
        """Give every parameter and buffer its first value, whatever it held: torch's default of each layer.

        Args:
            generator: on the CPU, as the net is; the global generator is neither read nor set.
        """
        for module in self.modules():
            initialise_layer(module, generator)

    def _through(self, values: Tensor, start: int, stop: int | None) -> Tensor:
        for block in self.chain()[start:stop]:
            values = block(values)
        return values


class Family(ABC):
    """A family of nets: one file, one `NET`, names `family-option-option`."""

    @abstractmethod
    def canonical(self, options: Sequence[str]) -> str:
        """The full name that the options mean; the same for every spelling of one net."""

    @abstractmethod
    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        """The net, with parameters of any value.

        Raises:
            UsageError: unknown options, or an image size the net cannot take.
        """


@functools.lru_cache(maxsize=256)
def canonical(name: str) -> str:
    """The full name of a net: `convnet-d3` becomes `convnet-d3-w128-instance`.

    Raises:
        UsageError: unknown family or option.
    """
    family, options = _split(name)
    return family.canonical(options)


def default_arch(size: int) -> str:
    """The ConvNet whose depth suits the images: log2(size) - 2 blocks, so that the last map is 4 x 4."""
    return f"convnet-d{max(1, min(8, round(math.log2(32 if size == 28 else size)) - 2))}"


def build(name: str, *, channels: int, size: int, classes: int, generator: Generator) -> Net:
    """Build a net for square images, every parameter drawn from the generator as its `initialise` says.

    Args:
        name: such as `convnet-d3-w64-bn`.
        channels: of the images.
        size: side of the images in pixels.
        classes: number of logits k.
        generator: on the CPU; the global generator is neither read nor set.

    Raises:
        UsageError: unknown name, or a size the net cannot take.
    """
    net = on_meta(name, channels=channels, size=size, classes=classes).to_empty(device="cpu")
    net.initialise(generator)
    return net


def on_meta(name: str, *, channels: int, size: int, classes: int) -> Net:
    """A net without storage: its shapes and nothing else; raises as `build` does."""
    family, options = _split(name)
    with torch.device("meta"):
        return family.build(options, channels=channels, size=size, classes=classes)


def parse_options(family: str, options: Sequence[str], parsers: Mapping[str, Callable[[str], bool]]) -> None:
    """Feed every option to the first parser that takes it.

    Args:
        family: name of the family, for messages.
        options: parts of the name after the family.
        parsers: what each option looks like in the help, and a function that returns whether it took the text.

    Raises:
        UsageError: an option that no parser takes, listing those known.
    """
    for option in options:
        if not any(parser(option) for parser in parsers.values()):
            known = [word for looks in parsers for word in re.findall(r"[^\s,()]+", looks)]
            raise UsageError(f"net '{family}' has no option '{option}'{suggest(option, known)}", field="arch")


def make_norm(name: str, channels: int, height: int, width: int) -> nn.Module:
    """A normalisation layer for maps (b, channels, height, width).

    `instance` is GroupNorm with one channel per group, which equals InstanceNorm2d with affine parameters.
    """
    if name == "instance":
        return nn.GroupNorm(channels, channels)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.LayerNorm([channels, height, width])
    if name == "group":
        return nn.GroupNorm(GROUPS, channels)
    return nn.Identity()


def initialise_layer(module: nn.Module, generator: Generator) -> None:
    """torch's default initialisation of one layer, from an explicit generator; layers without tensors are left alone.

    Raises:
        TypeError: a layer with parameters or buffers of its own that torch's default says nothing of.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
        if module.bias is not None:
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    elif isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d):
        module.reset_parameters()
    elif isinstance(module, Dropout):
        module.initialise(generator)
    elif any(True for _tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        raise TypeError(f"no initialisation known for {type(module).__name__}")


def mixes_samples(net: nn.Module) -> bool:
    """Whether images of a batch see each other in train mode: a net with batch norm."""
    return any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def calibrate_norms(net: nn.Module, images: Tensor) -> None:
    """Let batch norms see images (n, c, h, w) once in train mode, then hold their statistics fixed."""
    net.train()
    with torch.no_grad():
        net(images)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _unknown(name: str) -> UsageError:
    """Names of groups are no nets; a name that is neither is compared with both."""
    from ._groups import GROUPS

    if name.strip().lower() in GROUPS:
        return UsageError(f"'{name}' is a group of nets, expected one net; 'evaluate' takes groups", field="arch")
    known = (*_plugins.names("nets"), *GROUPS)
    return UsageError(f"unknown net or group '{name[:80]}'{suggest(name, known)}", field="arch")


def _split(name: str) -> tuple[Family, list[str]]:
    head, *options = name.strip().lower().split("-")
    if not _plugins.is_known("nets", head):
        raise _unknown(name)
    family = _plugins.load("nets", head, "NET")
    if not isinstance(family, Family):
        raise TypeError(f"NET of '{head}' is no Family")
    return family, options
