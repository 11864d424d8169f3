"""Handwritten digits, embedded: UCI optical digits (Alpaydin & Kaynak, 1998), 1,797 real images, CC BY 4.0."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..events import OnEvent
from ..frame import read_frame
from ._dataset import DatasetInfo, RawData, Split, statistics

__all__ = ["DATASET"]

COUNT = 1797
SIDE = 8
BRIGHTEST = 16
SIZES = (8, 16, 32)
DEFAULT_SIZE = 16
PERIOD, TEST_SHARE = 18, 5
"""Of every 18 images of a class, in file order, the first 5 are test images."""


class Digits:
    """1,288 training and 509 test images of 10 digits, grey, shown at 16 px unless `--size` is 8 or 32."""

    def load(self, path: str | None, size: int | None, on_event: OnEvent) -> RawData:
        """Read the embedded file; enlarged bilinearly, exactly, rounded half to even.

        Raises:
            UsageError: a path was given, or another size than 8, 16 or 32.
        """
        del on_event
        if path is not None:
            raise UsageError(f"data 'digits' is embedded and takes no path, got '{path[:80]}'", field="data")
        if size not in (None, *SIZES):
            raise UsageError(f"option 'size' is {size}, digits come in 8, 16 or 32 px", field="size")
        content = read_frame((Path(__file__).parent / "digits.zst").read_bytes(), 2**20, "embedded digits")
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        labels = data[:COUNT].long()
        pixels = _enlarge(data[COUNT:].reshape(COUNT, 1, SIDE, SIDE), size or DEFAULT_SIZE)
        test = _test_mask(labels)
        train = Split(pixels[~test], labels[~test])
        mean, std = statistics(train.pixels[:])
        info = DatasetInfo(
            name="digits",
            classes=tuple(str(digit) for digit in range(10)),
            channels=1,
            height=pixels.shape[2],
            width=pixels.shape[3],
            mean=mean,
            std=std,
            flip=False,
            licence="CC BY 4.0",
        )
        return RawData(info, train, Split(pixels[test], labels[test]))


def _enlarge(values: Tensor, size: int) -> Tensor:
    """Values 0 to 16 as pixels 0 to 255; all weights are powers of two, so float64 is exact."""
    grey = values.double() * (255 / BRIGHTEST)
    if size != SIDE:
        grey = functional.interpolate(grey, size=(size, size), mode="bilinear")
    return grey.round().to(torch.uint8)


def _test_mask(labels: Tensor) -> Tensor:
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero().flatten()
        mask[members] = torch.arange(len(members)) % PERIOD < TEST_SHARE
    return mask


DATASET = Digits()
