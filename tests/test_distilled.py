"""Sections of images and hard labels."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch
from torch.nn import functional

from ddlabel import distilled


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (12, 4), (700, 1500), (3, 100_000)])
def test_one_hot_labels_are_zipped_a_few_at_a_time(images: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is that of all of them at once, which need not fit into memory."""
    whole, largest = functional.one_hot, 0

    def one_hot(labels: torch.Tensor, count: int) -> Any:
        nonlocal largest
        largest = max(largest, len(labels) * count)
        return whole(labels, count)

    monkeypatch.setattr(functional, "one_hot", one_hot)
    in_order = torch.arange(images) * classes // images
    for labels in (in_order, in_order[torch.randperm(images, generator=torch.Generator().manual_seed(0))]):
        section = distilled.hard_section(labels, classes)
        everything = whole(labels, classes).float().numpy().tobytes()
        assert len(zlib.compress(everything, 6)) == section.zip_bytes

    assert largest <= max(classes, distilled.ONE_HOT_VALUES)
