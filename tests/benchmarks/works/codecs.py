"""Label codecs: encoding and decoding logits of 1000 classes. `bench_codecs.py` has sizes and losses of all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _work import Work
from torch import Tensor

from ddlabel import _plugins
from ddlabel.codecs._codec import Codec
from ddlabel.options import build

IMAGES, VIEWS, CLASSES = 1000, 40, 1000
CODECS: dict[str, dict[str, Any]] = {
    "q8": {},
    "topk-mr": {"k": 50, "bits": 3},
    "topk-ms": {"k": 50, "bits": 3},
}


def prepare(device: torch.device, codec: str, shape: tuple[int, int, int]) -> tuple[Codec, Tensor]:
    """A codec, and logits that the views of an image share half of; codecs run on the CPU."""
    del device
    images, _views, classes = shape
    source = torch.Generator().manual_seed(0)
    shared = torch.randn(images, 1, classes, generator=source)
    values = (shared + torch.randn(shape, generator=source)).mul_(3 / 2**0.5)
    built: Codec = build(_plugins.load("codecs", codec, "CODEC"), CODECS[codec])
    return built, values


def encode(
    device: torch.device, codec: str, shape: tuple[int, int, int] = (IMAGES, VIEWS, CLASSES)
) -> Callable[[], object]:
    """Values to parts."""
    built, values = prepare(device, codec, shape)
    return lambda: built.encode(values)


def decode(
    device: torch.device, codec: str, shape: tuple[int, int, int] = (IMAGES, VIEWS, CLASSES)
) -> Callable[[], object]:
    """Parts to values."""
    built, values = prepare(device, codec, shape)
    parts = built.encode(values)
    return lambda: built.decode(parts, shape)


def views(codec: str) -> float:
    """Views of a repetition."""
    del codec
    return IMAGES * VIEWS


work = partial(
    Work,
    sizes={name: {"codec": name} for name in CODECS},
    items=views,
    unit="views",
    tiny={"codec": "topk-mr", "shape": (2, 3, 60)},
)
ABOUT = f"{IMAGES * VIEWS:,} views of {CLASSES} classes, no reference"
WORKS = (
    work(name="codec-encode", about=f"encode {ABOUT}", ours=encode),
    work(name="codec-decode", about=f"decode {ABOUT}", ours=decode),
)
