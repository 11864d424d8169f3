"""Swin-V2-T, torchvision's (Liu et al., CVPR 2022), as GIFT and RDED evaluate with it: patches of 4 px, windows of 8.

Maps that windows do not divide are padded. Stochastic depth draws from the net's own state (`_dropout.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from ..errors import UsageError
from ._adopted import AdoptedNet, replace_stem
from ._net import Family, Net, initialise_layer, parse_options

__all__ = ["NET"]

BLOCKS = (("features.0", "features.1"), *((f"features.{i}", f"features.{i + 1}") for i in (2, 4, 6)))
PATCH = 4
DEVIATION = 0.02
"""Of the normal distribution that linear layers are drawn from, cut off at 2."""
SCALE = 10.0
"""First temperature of cosine attention, whose logarithm is learned."""


class _Swin(AdoptedNet):
    """Four stages, each but the first after a merge of patches; maps have their channels first here."""

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The stages, the first with the patches; (b, c, h, w) in and out."""
        first, *others = self._blocks
        return (partial(self._last_to_first, first), *(partial(self._stage, names) for names in others))

    def gather(self, maps: Tensor) -> Tensor:
        """Means over space of the normalised maps."""
        return super().gather(self._in_turn(["norm", "permute"], maps.movedim(1, -1)))

    def _stage(self, names: Sequence[str], x: Tensor) -> Tensor:
        return self._last_to_first(names, x.movedim(1, -1))

    def _last_to_first(self, names: Sequence[str], x: Tensor) -> Tensor:
        return self._in_turn(names, x).movedim(-1, 1)


class _SwinFamily(Family):
    def canonical(self, options: Sequence[str]) -> str:
        parse_options("swin", options, {"v2": "v2".__eq__, "t": "t".__eq__})
        return "swin-v2-t"

    def build(self, options: Sequence[str], *, channels: int, size: int, classes: int) -> Net:
        """torchvision's net with a head for the classes."""
        name = self.canonical(options)
        if size < PATCH:
            raise UsageError(f"net '{name}' needs images of {PATCH} px or more, they have {size}", field="arch")
        from torchvision import models

        model = models.swin_v2_t(weights=None, num_classes=classes)
        if channels != 3:
            replace_stem(model, "features.0.0", channels=channels)
        return _Swin(model, BLOCKS, head="head", values=_values)


def _values(module: nn.Module, generator: Generator) -> None:
    """torchvision's: every linear layer normal and cut off, without bias; the rest of attention is no draw."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=DEVIATION, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif hasattr(module, "logit_scale"):
        attention = cast(Any, module)
        nn.init.constant_(attention.logit_scale, torch.tensor(SCALE).log().item())
        attention.define_relative_position_bias_table()
        attention.define_relative_position_index()
    else:
        initialise_layer(module, generator)


NET = _SwinFamily()
