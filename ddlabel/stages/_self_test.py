"""Whether a teacher knows the classes it is asked about: a test on real images before its answers are used."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..data._dataset import Dataset
from ..errors import BundleError
from ..events import Event, OnEvent
from ..nets._net import Net
from ..space import Space
from ..teachers import Checkpoint
from ..training import predict

__all__ = ["check_backbones", "least_accuracy"]

SLICE = 512
"""Real images in a test, taken evenly from the split."""


def least_accuracy(classes: int, factor: float) -> float:
    """What a teacher must reach: `factor` times chance, at most half way from chance to 1.

    >>> least_accuracy(10, 3.0), least_accuracy(2, 3.0)
    (0.3, 0.75)
    """
    return round(min(factor / classes, (1 + 1 / classes) / 2), 9)


def check_backbones(
    checkpoints: Sequence[Checkpoint],
    nets: Sequence[Net],
    dataset: Dataset,
    space: Space,
    factor: float,
    on_event: OnEvent,
) -> None:
    """Refuse nets that answer at chance for held-out real images, or training images where none are held out.

    Args:
        checkpoints, nets: alike.
        dataset: of the images' classes and size.
        space: what the nets see.
        factor: least accuracy as a multiple of chance; 0 tests nothing.
        on_event: told of every accuracy.

    Raises:
        BundleError: a net below it; where another order of its outputs would pass, that is said.
    """
    if not factor:
        return
    split = dataset.validation if len(dataset.validation) else dataset.train
    rows = torch.linspace(0, len(split) - 1, min(SLICE, len(split))).round().long()
    pixels, labels = split.pixels[rows], split.labels[rows]
    least = least_accuracy(len(dataset.info.classes), factor)
    for checkpoint, net in zip(checkpoints, nets, strict=True):
        guesses = predict(net, pixels, space=space).argmax(dim=1)
        reached = float((guesses == labels).double().mean())
        on_event(
            Event(phase="self-test", message=f"{checkpoint.section} ({checkpoint.arch}): {reached:.1%} of {len(rows)}")
        )
        if reached < least:
            raise BundleError(
                f"teacher '{checkpoint.section}' is right for {reached:.1%} of {len(rows)} real images, expected at "
                f"least {least:.0%}",
                field="teacher",
                hint="train it longer, check the order of its classes and its input space, or lower --self-test",
            )
