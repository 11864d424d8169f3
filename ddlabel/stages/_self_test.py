"""Whether a teacher knows the classes it is asked about: a test on real images before its answers are used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data._dataset import Dataset
from ..errors import BundleError
from ..events import Event, OnEvent
from ..nets._net import Net
from ..space import Space
from ..teachers import Checkpoint
from ..training import predict

__all__ = ["SLICE", "check_backbones", "check_recorded", "least_accuracy", "reordered_accuracy"]

SLICE = 512
"""Real images in a test, taken evenly from the split."""
FEW = 32
"""Held-out images below which training images are taken: luck would decide."""
ENOUGH = 20
"""Distilled images from which on another order of the classes is looked for: fewer agree with some order by chance."""
ORDER = (
    "another order of its outputs would be right for {:.0%}: the order of its classes is probably permuted, compare "
    "its class names with those of the data"
)


def least_accuracy(classes: int, factor: float) -> float:
    """What a teacher must reach: `factor` times chance, at most half way from chance to 1.

    >>> least_accuracy(10, 3.0), least_accuracy(2, 3.0)
    (0.3, 0.75)
    """
    return round(min(factor / classes, (1 + 1 / classes) / 2), 9)


def reordered_accuracy(guesses: Tensor, labels: Tensor) -> float:
    """Accuracy of guesses (n,) for labels (n,), both int64, with the outputs in the order that suits them best.

    The order is found on every other guess, largest counts of (guess, label) first, and scored on those between, so
    that guesses at random gain nothing by it.

    >>> labels = torch.arange(40) // 2 % 4
    >>> reordered_accuracy((labels + 1) % 4, labels)
    1.0
    """
    pairs, counts = torch.stack([guesses[::2], labels[::2]], dim=1).unique(dim=0, return_counts=True)
    order: dict[int, int] = {}
    taken: set[int] = set()
    for row in counts.argsort(descending=True, stable=True).tolist():
        guess, label = map(int, pairs[row])
        if guess not in order and label not in taken:
            order[guess] = label
            taken.add(label)
    rest = list(zip(guesses[1::2].tolist(), labels[1::2].tolist(), strict=True))
    right = sum(int(order.get(guess) == label) for guess, label in rest)
    return right / max(1, len(rest))


def check_backbones(
    checkpoints: Sequence[Checkpoint],
    nets: Sequence[Net],
    dataset: Dataset,
    space: Space,
    factor: float,
    on_event: OnEvent,
    *,
    option: str = "--self-test",
) -> None:
    """Refuse nets that answer at chance for held-out real images, or training images where few are held out.

    Args:
        checkpoints, nets: alike.
        dataset: of the images' classes and size.
        space: what the nets see.
        factor: least accuracy as a multiple of chance; 0 tests nothing.
        on_event: told of every accuracy.
        option: where the factor can be lowered.

    Raises:
        BundleError: a net below it; where another order of its outputs would pass, that is said.
    """
    if not factor:
        return
    split = dataset.validation if len(dataset.validation) >= FEW else dataset.train
    rows = torch.linspace(0, len(split) - 1, min(SLICE, len(split))).round().long()
    pixels, labels = split.pixels[rows], split.labels[rows]
    least = least_accuracy(len(dataset.info.classes), factor)
    for checkpoint, net in zip(checkpoints, nets, strict=True):
        guesses = predict(net, pixels, space=space).argmax(dim=1)
        reached = float((guesses == labels).double().mean())
        _say(on_event, f"{checkpoint.section} ({checkpoint.arch}): {reached:.1%} of {len(rows)} real images")
        if reached < least:
            other = reordered_accuracy(guesses, labels)
            what = f"is right for {reached:.1%} of {len(rows)} real images"
            raise _refusal(checkpoint, what, least, other if other >= least else None, option)


def check_recorded(
    checkpoints: Sequence[Checkpoint],
    nets: Sequence[Net],
    images: Tensor,
    labels: Tensor,
    classes: int,
    factor: float,
    on_event: OnEvent,
) -> None:
    """The same without real images: by the accuracies that were recorded when the teachers were trained.

    How far the nets agree with the hard labels of the images that they are to label is said, and refuses them only
    where another order of their outputs agrees with most of these labels: distilled images may look like nothing.

    Args:
        checkpoints, nets: alike.
        images: (n, c, h, w) float32 in model-input space, some of those to be labelled.
        labels: (n,) int64, their classes.
        classes: k.
        factor: least accuracy as a multiple of chance; 0 tests nothing.
        on_event: told of every accuracy.

    Raises:
        BundleError: a net below it, or one whose classes stand in another order.
    """
    if not factor:
        return
    least = least_accuracy(classes, factor)
    for checkpoint, net in zip(checkpoints, nets, strict=True):
        known = [(split, checkpoint.accuracy.get(split)) for split in ("validation", "test")]
        split, recorded = next(((name, value) for name, value in known if value is not None), ("", None))
        guesses = predict(net, images).argmax(dim=1)
        agreement, other = float((guesses == labels).double().mean()), reordered_accuracy(guesses, labels)
        said = "no accuracy is recorded, --data tests it" if recorded is None else f"{recorded:.1%} of {split} images"
        _say(on_event, f"{checkpoint.section} ({checkpoint.arch}): {said}; agrees with {agreement:.1%} of hard labels")
        if recorded is not None and recorded < least:
            raise _refusal(checkpoint, f"was right for {recorded:.1%} of {split} images", least, None, "--self-test")
        if agreement < least and other >= max(least, 0.5) and len(images) >= ENOUGH:
            what = f"agrees with {agreement:.1%} of the hard labels of {len(images)} images"
            raise _refusal(checkpoint, what, least, other, "--self-test")


def _refusal(checkpoint: Checkpoint, what: str, least: float, other: float | None, option: str) -> BundleError:
    advice = "train it longer, check the order of its classes and its input space"
    return BundleError(
        f"teacher '{checkpoint.section}' {what}, expected at least {least:.0%}"
        + ("" if other is None else f"; {ORDER.format(other)}"),
        field="teacher",
        hint=f"{advice if other is None else 'train or import it with the classes of the data in order'}, or lower "
        f"{option}",
    )


def _say(on_event: OnEvent, message: str) -> None:
    on_event(Event(phase="self-test", message=message))
