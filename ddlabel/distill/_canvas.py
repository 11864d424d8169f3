"""How distilled images are parametrised: as pixels, or as latents that a generator decodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Generator, Tensor

__all__ = ["PIXELS", "Canvas", "Pixels"]


class Canvas(Protocol):
    """What an optimising method draws on. Its entries of a method's state are its own.

    A method asks for the images with `render`, computes d loss / d images, and hands it to `descend`.
    """

    def begin(self, images: Tensor, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The entries before the first step.

        Args:
            images: (n, c, h, w) float32 in model-input space, on their device: what pixels start from.
            labels: (n,) int64 classes of the images.
            generator: for what else is drawn.
        """
        ...

    def render(self, state: Mapping[str, Tensor]) -> Tensor:
        """The images (n, c, h, w) float32 in model-input space, without a graph."""
        ...

    def descend(
        self, state: Mapping[str, Tensor], gradient: Tensor, *, lr: float, momentum: float
    ) -> dict[str, Tensor]:
        """The entries after a step of SGD with momentum against a gradient (n, c, h, w); `state` is not changed."""
        ...


class Pixels:
    """The images themselves: entries `images` and `velocity`, both (n, c, h, w)."""

    def begin(self, images: Tensor, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The images at rest."""
        del labels, generator
        return {"images": images, "velocity": torch.zeros_like(images)}

    def render(self, state: Mapping[str, Tensor]) -> Tensor:
        """The images."""
        return state["images"]

    def descend(
        self, state: Mapping[str, Tensor], gradient: Tensor, *, lr: float, momentum: float
    ) -> dict[str, Tensor]:
        """One step in pixel space."""
        velocity = momentum * state["velocity"] + gradient
        return {"images": state["images"] - lr * velocity, "velocity": velocity}


PIXELS = Pixels()
