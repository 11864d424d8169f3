"""Bundles of random weights, for works that write, read or look at files."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ddlabel.bundle import Bundle, NewSection, StageRecord

MIB = 2**20
TENSORS = 4


def folder() -> Path:
    """A folder that is gone when the process is."""
    made = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def tensors(megabytes: float) -> dict[str, Tensor]:
    """Random float32 weights of so many MB of 2^20 bytes."""
    source = torch.Generator().manual_seed(0)
    count = int(megabytes * MIB / 4 / TENSORS)
    return {f"teacher.0.1.w{number}": torch.randn(count, generator=source) for number in range(TENSORS)}


def make_bundle(weights: dict[str, Tensor]) -> Bundle:
    """A teacher's bundle of these weights."""
    parameters = {"arch": "mlp", "member": 0, "epoch": 1, "accuracy": {}, "seed": 0}
    section = NewSection("teacher.0.1", "teacher", weights, parameters=parameters)
    return Bundle.create("teacher", None, StageRecord("train-teacher", {}, 0, [], {}, 0.0, 0.0, {}), [section])
