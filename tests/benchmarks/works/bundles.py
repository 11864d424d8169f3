"""Bundles: writing and reading tensors with their digests, against torch's own files, which have none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from _files import folder, make_bundle, tensors
from _work import Work
from torch import Tensor

from ddlabel.bundle import Bundle


def write(device: torch.device, megabytes: float) -> Callable[[], object]:
    """Digests, file, and waiting for the disk, as every stage writes."""
    del device
    path, weights = folder() / "ours.ddset", tensors(megabytes)
    return lambda: make_bundle(weights).save(path, force=True)


def reference_write(device: torch.device, megabytes: float) -> Callable[[], object]:
    """torch.save: no digests, no waiting for the disk."""
    del device
    path, weights = folder() / "theirs.pt", tensors(megabytes)
    return lambda: torch.save(weights, path)


def read(device: torch.device, megabytes: float) -> Callable[[], Tensor]:
    """Open, read all tensors and check their digests."""
    del device
    path, weights = folder() / "ours.ddset", tensors(megabytes)
    make_bundle(weights).save(path)

    def run() -> Tensor:
        bundle = Bundle.open(path)
        return torch.stack([bundle.tensor(name) for name in weights])

    return run


def reference_read(device: torch.device, megabytes: float) -> Callable[[], Tensor]:
    """torch.load."""
    del device
    path, weights = folder() / "theirs.pt", tensors(megabytes)
    torch.save(weights, path)
    return lambda: torch.stack(list(torch.load(path, weights_only=True).values()))


def count(megabytes: float) -> float:
    """MB of a repetition."""
    return megabytes


work = partial(
    Work,
    sizes={f"{megabytes} MB": {"megabytes": megabytes} for megabytes in (10, 100)},
    items=count,
    unit="MB",
    repeat=2,
    tiny={"megabytes": 0.01},
)
WORKS = (
    work(
        name="bundle-write",
        about="write a bundle of four tensors, digests and waiting for the disk included; torch.save does neither",
        ours=write,
        reference=reference_write,
    ),
    work(
        name="bundle-read",
        about="read and check them all; torch.load does not check",
        ours=read,
        reference=reference_read,
    ),
)
