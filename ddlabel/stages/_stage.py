"""What all stages share: the device they compute on, the clock, and the history entry they leave."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from typing import Any

import torch

from .. import __version__
from ..bundle import Bundle, StageRecord
from ..data._dataset import Dataset, load
from ..data._whitening import cached_zca
from ..errors import BundleError, ResourceError, UsageError
from ..events import Event, OnEvent
from ..memory import keep_freed_memory
from ..preprocess import data_of
from ..space import Space
from ..team import ALONE, Team

__all__ = ["Clock", "computing", "fit_space", "load_like", "memory_worded", "redact"]


@dataclass(frozen=True)
class Clock:
    """Started when a stage starts; turns into its history entry when it ends."""

    device: torch.device
    started: float = made(default_factory=time.time)
    ticks: float = made(default_factory=time.monotonic)
    threads: int = made(default_factory=torch.get_num_threads)
    tf32: bool = made(default_factory=lambda: _tf32_is_allowed())

    def record(
        self,
        stage: str,
        config: Mapping[str, Any],
        *,
        seed: int | None,
        inputs: Sequence[Bundle] = (),
        metrics: Mapping[str, Any] | None = None,
    ) -> StageRecord:
        """The history entry: effective config, input digests, metrics, seconds, versions."""
        return StageRecord(
            stage=stage,
            config=dict(config),
            seed=seed,
            inputs=list(inputs),
            metrics=dict(metrics or {}),
            seconds=time.monotonic() - self.ticks,
            started=self.started,
            host={
                "device": _device_name(self.device),
                "threads": self.threads,
                "tf32": self.tf32,
                "versions": {
                    "ddlabel": __version__,
                    "python": platform.python_version(),
                    "torch": str(torch.__version__),
                },
            },
        )


@contextlib.contextmanager
def computing(device: str, threads: int, team: Team = ALONE) -> Iterator[Clock]:
    """Choose device and thread count for a stage, and give the thread count back afterwards.

    Of several processes each has a GPU of its own.

    Inside, CUDA multiplies float32 numbers as such: TF32, which torch lets convolutions use, rounds them to 10 bits,
    too few for second derivatives through tens of steps.

    Raises:
        UsageError: no such device on this machine.
        ResourceError: the device or the machine ran out of memory.
    """
    chosen = _own_gpu(_choose_device(device), team)
    keep_freed_memory()
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        with _without_tf32(), memory_worded():
            yield Clock(chosen)
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def memory_worded() -> Iterator[None]:
    """Tell lack of memory from other failures: torch's CPU allocator has a text of its own alone.

    Raises:
        ResourceError: the device or the machine ran out of memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory() from error
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise _out_of_memory() from error
        raise


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel, in [0, 1] units: what torchvision's weights were trained with, and RDED takes for every data set."""


def _tf32_is_allowed() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Full float32 in matrix products and convolutions on CUDA; what was allowed before is allowed again after."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def fit_space(dataset: Dataset, kind: str, on_event: OnEvent) -> Space:
    """The input space of a data set: its published constants, ImageNet's, or a ZCA of its training split.

    A ZCA is fitted once and cached.

    Raises:
        UsageError: ImageNet's constants, of three channels, for images of one.
    """
    info = dataset.info
    if kind == "imagenet":
        if info.channels != len(IMAGENET_MEAN):
            raise UsageError(
                f"--space imagenet is of 3 channels, '{info.name}' has {info.channels}",
                field="space",
                hint="use --space normalised",
            )
        return Space(kind="normalised", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    zca = None
    if kind == "zca":
        on_event(Event(phase="fitting ZCA", done=0, total=1))
        zca = cached_zca(dataset.train.pixels, on_event)
        on_event(Event(phase="fitting ZCA", done=1, total=1))
    return Space(kind="zca" if zca else "normalised", mean=info.mean, std=info.std, zca=zca)


def load_like(bundle: Bundle, spec: str, on_event: OnEvent) -> Dataset:
    """The data set at the image size of a bundle and with its held-out share.

    Raises:
        BundleError: classes or image shape differ, naming both sides.
    """
    data = data_of(bundle)
    dataset = load(spec, size=data["height"], validation=data["validation"]["fraction"], on_event=on_event)
    info = dataset.info
    sides = {
        "classes": (list(data["classes"]), list(info.classes)),
        "image shape": ([data["channels"], data["height"], data["width"]], [info.channels, info.height, info.width]),
    }
    for field, (ours, theirs) in sides.items():
        if ours != theirs:
            raise BundleError(
                f"{bundle.name} has {field} {ours}, the data set '{info.name}' has {theirs}",
                field=field,
                hint="use the data set it was distilled from",
            )
    return dataset


def redact(data: str) -> str:
    """A data specification without its folder: bundles are published, paths of a machine are not."""
    name, _, path = data.partition(":")
    return f"{name}:{os.path.basename(path.rstrip('/'))}" if path else name


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"device '{name[:40]}' is unknown, expected auto, cpu, cuda, cuda:N or mps", field="device"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device '{name}' is not on this machine ({torch.cuda.device_count()} CUDA devices)")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not on this machine")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"device '{name}' is not supported, expected auto, cpu, cuda, cuda:N or mps", field="device")
    return device


def _own_gpu(device: torch.device, team: Team) -> torch.device:
    """The GPU of one of several processes, where no number was typed.

    Raises:
        UsageError: all of them would share one, or there are more processes than GPUs.
    """
    if team.size == 1 or device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if device.index is not None or team.local_rank >= count:
        problem = f"device '{device}' is one GPU" if device.index is not None else f"this machine has {count} GPUs"
        raise UsageError(
            f"{problem}, process {team.rank} of {team.size} has no GPU of its own",
            field="device",
            hint=f"use --device auto and at most {count} processes on this machine, or --device cpu",
        )
    own = torch.device("cuda", team.local_rank)
    torch.cuda.set_device(own)
    return own


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _out_of_memory() -> ResourceError:
    return ResourceError("out of memory", hint="lower --set batch, --ipc, --size or the width of --arch")
