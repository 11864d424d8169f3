"""`evaluate` of five seeds as a whole command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _published_loop import CLASSES, flops_per_image
from _work import Work

ROOT = Path(__file__).parents[3]
LOOP = Path(__file__).parents[1] / "_published_loop.py"
SEEDS = 5
TEST_OF_EPOCHS = 10
"""Test images for each epoch of training, as in the published run: 10,000 images after 1,000 epochs."""
TWO_CORES = ("--processes", "2", "--threads", "1")
"""Two processes of one thread each; a GPU takes one."""


def ours(device: torch.device, *, ipc: int, epochs: int) -> Callable[[], object]:
    """The command, from starting Python to the scored bundle."""
    folder = tempfile.TemporaryDirectory()
    data, base = f"npz:{folder.name}/noise.npz", f"{folder.name}/base.ddset"
    _write_noise(Path(folder.name) / "noise.npz", ipc, TEST_OF_EPOCHS * epochs)
    _run("-m", "ddlabel", "distill", "--data", data, "--method", "random", "--ipc", str(ipc), "--validation", "0",
         "-o", base)  # fmt: skip
    arguments = [
        "evaluate", base, "--data", data, "--arch", "convnet-d3", "--protocol", "mtt", "--seeds", str(SEEDS),
        "--epochs", str(epochs), "--device", str(device), "--force", "-o", f"{folder.name}/scored.ddset",
    ]  # fmt: skip

    def once() -> None:
        _run("-m", "ddlabel", *arguments, *(TWO_CORES if device.type == "cpu" else ()), folder=folder.name)

    return once


def reference(device: torch.device, *, ipc: int, epochs: int) -> Callable[[], object]:
    """A script that trains and tests one student after the other, with as many threads as torch takes."""
    numbers = map(str, (SEEDS, ipc * CLASSES, epochs + 1, TEST_OF_EPOCHS * epochs))
    arguments = (str(LOOP), str(device), *numbers)
    return lambda: _run(*arguments, threads=None)


def flops(*, ipc: int, epochs: int) -> float:
    """Of training and testing."""
    trained = ipc * CLASSES * (epochs + 1) * flops_per_image(training=True)
    return SEEDS * (trained + TEST_OF_EPOCHS * epochs * flops_per_image(training=False))


def _write_noise(path: Path, ipc: int, tested: int) -> None:
    source = np.random.Generator(np.random.PCG64(0))
    arrays = {}
    for split, count in (("train", ipc * CLASSES), ("test", tested)):
        arrays[f"{split}_images"] = source.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % CLASSES
    np.savez(path, **arrays)


def _run(*arguments: str, folder: str | None = None, threads: str | None = "1") -> None:
    """A Python command, which has to succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = threads
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-2000:]}")


WORKS = (
    Work(
        name="evaluate-seeds",
        about="ConvNet-D3 W128, CIFAR-10 shapes: five seeds trained and tested, whole commands on two cores; "
        "the published script does one after the other",
        sizes={"ipc 1": {"ipc": 1, "epochs": 150}, "ipc 10": {"ipc": 10, "epochs": 15}},
        ours=ours,
        reference=reference,
        flops=flops,
        target=1.7,
        repeat=1,
        warm=0,
        rounds=1,
        processes=True,
    ),
)
