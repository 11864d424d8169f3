"""Labels of some of the images, as if the others had never been there."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..errors import UsageError
from ._labels import LabelSet, load_kind

__all__ = ["labels_of_images"]


def labels_of_images(labels: LabelSet, chosen: Tensor) -> LabelSet:
    """The labels of chosen images (m,) int64, ascending, for training on these images alone.

    Views that other images are mixed into are left out. Each image keeps its number of slots: where views are left
    out, the others take turns, so that `view_ids` may name a view twice.

    Raises:
        UsageError: an image of which no view is left.
    """
    values, kept = labels.values[chosen], None if labels.view_ids is None else labels.view_ids[chosen]
    own = load_kind(labels).alone(chosen, images=len(labels.values), size=int(labels.parameters["size"]))
    if own is None:
        return dataclasses.replace(labels, values=values, view_ids=kept)
    if kept is None:
        kept = torch.arange(values.shape[1]).expand(values.shape[:2])
    slots = _turns(own.usable.gather(1, kept), chosen)
    return dataclasses.replace(
        labels,
        values=values.gather(1, slots[..., None].expand_as(values)),
        parameters={**labels.parameters, **own.parameters},
        augmentation=own.augmentation,
        view_ids=kept.gather(1, slots),
    )


def _turns(usable: Tensor, chosen: Tensor) -> Tensor:
    """(m, v) int64 slots: the usable ones (m, v) of each image in order, again and again."""
    counts = usable.sum(dim=1)
    if bool((counts == 0).any()):
        image = int(chosen[counts == 0][0])
        raise UsageError(
            f"all {usable.shape[1]} labelled views of image {image} mix in images that are not to be seen, expected "
            "one that does not",
            field="labels",
            hint="use more views, labels made with --set mix=none, or --labels soft",
        )
    first = (~usable).to(torch.uint8).argsort(dim=1, stable=True)
    turn = torch.arange(usable.shape[1]) % counts[:, None]
    return first.gather(1, turn)
