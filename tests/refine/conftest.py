"""A tiny lesson: 3 classes of coloured blobs, 8 x 8 pixels, and two distilled images of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddlabel.refine._learner import Lesson
from ddlabel.seeding import generator
from ddlabel.space import Space

CLASSES, PER_CLASS, IPC = 3, 12, 2


def _lesson(**changes: Any) -> Lesson:
    labels = torch.arange(CLASSES).repeat(PER_CLASS)
    pixels = torch.randint(0, 120, (len(labels), 3, 8, 8), generator=generator(0, "noise"))
    pixels[torch.arange(len(labels)), labels] += 120
    pixels = pixels.to(torch.uint8)
    space = Space("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    own = torch.cat([(labels == label).nonzero().flatten()[:IPC] for label in range(CLASSES)])
    known: dict[str, Any] = {
        "pixels": pixels,
        "labels": labels,
        "classes": ("red", "green", "blue"),
        "space": space,
        "ipc": IPC,
        "arch": "convnet-d2-w4-instance",
        "flip": True,
        "teacher": None,
        "device": torch.device("cpu"),
        "seed": 0,
        "images": space.encode(pixels[own]),
        "kind": "feature",
    }
    return Lesson(**(known | changes))


@pytest.fixture(scope="session")
def make_lesson() -> Callable[..., Lesson]:
    """The lesson with some fields changed."""
    return _lesson
