"""The data sets that torchvision reads, from files that are already there: nothing is downloaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ResourceError, UsageError
from ..events import OnEvent
from ._dataset import DatasetInfo, RawData, Split

__all__ = ["TorchvisionSet"]


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet:
    """One class of `torchvision.datasets` with its published constants."""

    name: str
    class_name: str
    """In `torchvision.datasets`."""
    side: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    """Empty: taken from torchvision."""
    flip: bool = True
    by_split: bool = False
    """The constructor takes split="train" instead of train=True."""
    licence: str = "see the data set's page"

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Read both splits from PATH, or from the folder that DDLABEL_DATA_DIR names.

        Raises:
            DataError: the files are not there, saying where they are expected.
            UsageError: another size than the set's.
        """
        del on_event
        if size not in (None, self.side):
            raise UsageError(f"option 'size' is {size}, '{self.name}' has images of {self.side} px", field="size")
        root = Path(path or os.environ.get("DDLABEL_DATA_DIR") or ".")
        train, test = self._read(root, train=True), self._read(root, train=False)
        classes = self.classes or tuple(str(name) for name in train.classes)
        info = DatasetInfo(
            name=self.name,
            classes=classes,
            channels=self.channels,
            height=self.side,
            width=self.side,
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            licence=self.licence,
        )
        return RawData(info, self._split(train), self._split(test))

    def _read(self, root: Path, *, train: bool) -> Any:
        kind = getattr(_datasets(), self.class_name)
        chosen = {"split": "train" if train else "test"} if self.by_split else {"train": train}
        try:
            return kind(root=str(root), download=False, **chosen)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"data '{self.name}': torchvision does not find its files in '{root}'",
                field="data",
                hint=f"put them there as torchvision.datasets.{self.class_name} keeps them, name their folder with "
                f"--data {self.name}:DIR or DDLABEL_DATA_DIR, or use --data folder:DIR",
            ) from error

    def _split(self, dataset: Any) -> Split:
        labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
        return Split(self._pixels(dataset.data), torch.as_tensor(np.asarray(labels), dtype=torch.int64))

    def _pixels(self, data: Any) -> Tensor:
        """(n, c, h, w), whatever torchvision's order of axes."""
        pixels = torch.as_tensor(np.asarray(data), dtype=torch.uint8)
        if pixels.ndim == 3:
            return pixels[:, None]
        return pixels.contiguous() if pixels.shape[1] == self.channels else pixels.permute(0, 3, 1, 2).contiguous()


def _datasets() -> ModuleType:
    """torchvision.datasets, also beside a torch built without the operators torchvision brings."""
    try:
        from torchvision import datasets
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        raise ResourceError(
            "torchvision does not fit this torch, its operators are missing",
            hint="install matching torch and torchvision, or use --data folder:DIR",
        ) from error
    except ImportError as error:
        raise ResourceError("torchvision is not installed", hint="pip install torchvision") from error
    module: ModuleType = datasets
    return module
