"""A tiny problem: 3 classes of coloured blobs, 8 x 8 pixels, and a teacher that projects pixels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddlabel.distill._method import Problem
from ddlabel.seeding import generator
from ddlabel.space import Space

SIZES = (9, 12, 7)
"""Images per class: unequal on purpose."""


class Projection:
    """Features are a fixed random projection of the pixels, as float16 would hold them or not."""

    def features(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> Tensor:
        del device
        weights = torch.randn(pixels[0].numel(), 6, generator=generator(0, "projection"))
        return pixels.flatten(1).float() @ weights


def blobs() -> tuple[Tensor, Tensor]:
    """(28, 3, 8, 8) uint8 and shuffled labels (28,): class c is bright in channel c."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(SIZES)])
    labels = labels[torch.randperm(len(labels), generator=generator(0, "order"))]
    pixels = torch.randint(0, 120, (len(labels), 3, 8, 8), generator=generator(0, "noise"))
    pixels[torch.arange(len(labels)), labels] += 120
    return pixels.to(torch.uint8), labels


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Builds the tiny problem with any field changed."""

    def make(**changes: object) -> Problem:
        pixels, labels = blobs()
        fields: dict[str, object] = {
            "pixels": pixels,
            "labels": labels,
            "classes": ("red", "green", "blue"),
            "space": Space("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
            "ipc": 4,
            "arch": "convnet-d1-w4-instance",
            "flip": True,
            "teacher": Projection(),
            "device": torch.device("cpu"),
            "seed": 0,
        }
        return Problem(**(fields | changes))  # type: ignore[arg-type]

    return make
