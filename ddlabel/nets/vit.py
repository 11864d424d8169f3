"""Vision transformers: GLaD's small one (arXiv:2305.01649), and `vit-b-16`, torchvision's ViT-B/16.

Both are built for the size of the images, which their patches must divide. Tokens are maps (b, width, tokens, 1) to
whoever taps them: the class token first, then patches row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UsageError
from ._adopted import AdoptedNet, replace_stem
from ._dropout import Dropout
from ._net import Family, Net, initialise_layer, parse_options

__all__ = ["NET", "GladViT"]

WIDTH, HEADS, HEAD_WIDTH, HIDDEN, DROPOUT = 512, 8, 64, 512, 0.1
DEEP, SHALLOW = 10, 6
LARGE_SIZE = 128
"""From here on the deep one."""
LARGE_PATCH = 16


class _Attention(nn.Module):
    """Heads of scaled dot products; written out, so that it can be differentiated any number of times."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, WIDTH)
        self.drop = Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, HEADS, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(HEAD_WIDTH)).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return cast(Tensor, self.drop(self.out(mixed)))


class _Layer(nn.Module):
    """Attention and a perceptron, each added to what it sees; no norms."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, HIDDEN), nn.GELU(), Dropout(DROPOUT), nn.Linear(HIDDEN, WIDTH), Dropout(DROPOUT)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + cast(Tensor, self.mlp(x))


class GladViT(Net):
    """Linear patches, a class token, learned positions, 6 or 10 layers of width 512, one linear layer; no LayerNorm.

    Differs from the authors' code in: dropout draws from the net's own state, and patches are cut by a convolution,
    which is the same linear layer with its inputs in another order.
    """

    gives_tokens = True

    def __init__(self, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        patch = LARGE_PATCH if size >= LARGE_SIZE else 8 if size >= 64 else 4
        _check_patch("vit", size, patch)
        self.patches = nn.Conv2d(channels, WIDTH, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.empty(1, 1 + (size // patch) ** 2, WIDTH))
        self.drop = Dropout(DROPOUT)
        self.layers = nn.ModuleList(_Layer() for _layer in range(DEEP if size >= LARGE_SIZE else SHALLOW))
        self.classifier = nn.Linear(WIDTH, classes)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The layers, the first with the patches."""
        first, *others = self.layers
        return (
            lambda images: _as_maps(first(self.drop(_tokens(self.patches(images), self.class_token) + self.positions))),
            *(partial(_through, layer) for layer in others),
        )

    def gather(self, maps: Tensor) -> Tensor:
        """The class token, (b, 512)."""
        return maps[:, :, 0, 0]

    def classify(self, features: Tensor) -> Tensor:
        """One linear layer."""
        logits: Tensor = self.classifier(features)
        return logits

    def initialise(self, generator: Generator) -> None:
        """Token and positions standard normal, layers as torch has them."""
        for parameter in (self.class_token, self.positions):
            nn.init.normal_(parameter, generator=generator)
        for module in self.modules():
            if module is not self:
                initialise_layer(module, generator)


class _TorchvisionViT(AdoptedNet):
    """Patches and class token, 12 layers with norms, one linear layer.

    Attention is computed as written rather than by a fused kernel: gradients repeat bit for bit on every device and can
    be differentiated again.
    """

    gives_tokens = True
    class_token: nn.Parameter

    def __init__(self, model: nn.Module) -> None:
        layers = model.get_submodule("encoder.layers").named_children()
        names = [f"encoder.layers.{name}" for name, _layer in layers]
        super().__init__(model, [[name] for name in names], head="heads", values=_values)
        self.class_token = cast(nn.Parameter, model.class_token)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The layers, the first with the patches."""
        first, *others = (self.get_submodule(name) for (name,) in self._blocks)
        return (lambda images: self._first(first, images), *(partial(_through, layer) for layer in others))

    def gather(self, maps: Tensor) -> Tensor:
        """The normalised class token, (b, 768)."""
        return self._in_turn(["encoder.ln"], maps[:, :, 0, 0])

    def _first(self, layer: nn.Module, images: Tensor) -> Tensor:
        patches = _tokens(self._in_turn(["conv_proj"], images), self.class_token)
        positions = cast(Tensor, self.get_parameter("encoder.pos_embedding"))
        tokens = self._in_turn(["encoder.dropout"], patches + positions)
        return _through(layer, _as_maps(tokens))

    def initialise(self, generator: Generator) -> None:
        """As torchvision's constructor draws them, but from the generator."""
        nn.init.zeros_(self.class_token)
        nn.init.normal_(self.get_parameter("encoder.pos_embedding"), std=0.02, generator=generator)
        super().initialise(generator)
        for parameter in self.get_submodule("heads").parameters():
            nn.init.zeros_(parameter)


def _values(module: nn.Module, generator: Generator) -> None:
    """torchvision's: patches normal and cut off, perceptrons uniform by Glorot; attention as torch has it."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()), generator=generator)
        nn.init.zeros_(cast(Tensor, module.bias))
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.xavier_uniform_(module.in_proj_weight, generator=generator)
        nn.init.zeros_(module.in_proj_bias)
    elif isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        initialise_layer(module, generator)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        nn.init.normal_(module.bias, std=1e-6, generator=generator)
    elif not isinstance(module, _TorchvisionViT) and not hasattr(module, "pos_embedding"):
        initialise_layer(module, generator)


class _VitFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        return "vit-b-16" if _is_base(options) else "vit"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        if not _is_base(options):
            return GladViT(channels=channels, size=size, classes=classes)
        _check_patch("vit-b-16", size, LARGE_PATCH)
        from torchvision import models

        model = models.vit_b_16(weights=None, num_classes=classes, image_size=size)
        if channels != 3:
            replace_stem(model, "conv_proj", channels=channels)
        return _TorchvisionViT(model)


def _is_base(options: Sequence[str]) -> bool:
    parse_options("vit", options if tuple(options) != ("b", "16") else (), {"b-16": lambda _text: False})
    return bool(options)


def _check_patch(name: str, size: int, patch: int) -> None:
    if size % patch or size < patch:
        near = max(patch, patch * round(size / patch))
        raise UsageError(
            f"net '{name}' cuts images into patches of {patch} px, which do not divide {size} px",
            field="arch",
            hint=f"use --size {near}",
        )


def _tokens(patches: Tensor, class_token: Tensor) -> Tensor:
    """(b, 1 + h w, width) of patches (b, width, h, w), the class token (1, 1, width) first."""
    return torch.cat([class_token.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)


def _as_maps(tokens: Tensor) -> Tensor:
    """(b, width, tokens, 1) of (b, tokens, width)."""
    return tokens.transpose(1, 2).unsqueeze(3)


def _through(layer: nn.Module, maps: Tensor) -> Tensor:
    """A layer of tokens, on maps."""
    with sdpa_kernel(SDPBackend.MATH):
        return _as_maps(layer(maps.squeeze(3).transpose(1, 2)))


NET = _VitFamily()
