"""The samples of one epoch as a torch data set: what a loader may fetch in any order, in any process."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .students import Samples

__all__ = ["EpochDataset", "Sample"]

Sample = tuple[Tensor, dict[str, Tensor]]
"""An image (c, h, w) float32 in model-input space, and its targets by name."""


class EpochDataset(Dataset[Sample]):
    """What a student sees in one epoch, for a `torch.utils.data.DataLoader`, in any order and with any workers.

    A sample is an image and its targets, a dict: `index` int64, the number of the image in the bundle; `hard` int64,
    its class; of labels other than hard ones also `soft` (k,) float32, the label of what is seen, as stored; and of
    labels of several views `local` bool, whether a view is seen rather than the whole image.
    """

    def __init__(self, samples: Samples, image: Tensor, slot: Tensor) -> None:
        self.samples, self.image, self.slot = samples, image, slot

    def __len__(self) -> int:
        """Samples in the epoch."""
        return len(self.image)

    def __getitem__(self, index: int) -> Sample:
        """One sample, in the order of the epoch when nothing shuffles it.

        Raises:
            IndexError: there are not as many.
            TypeError: no whole number.
        """
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(f"sample {index!r:.80} of an epoch, expected a whole number") from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of an epoch of {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples, their views made together; loaders ask for a batch so."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        image = self.image[chosen]
        images, targets = self.samples.batch(image, self.slot[chosen], lambda _image: None)
        columns = {"index": image, "hard": targets.hard, "soft": targets.soft, "local": targets.local}
        present = {name: column for name, column in columns.items() if column is not None}
        return [
            (picture, {name: column[row] for name, column in present.items()}) for row, picture in enumerate(images)
        ]
