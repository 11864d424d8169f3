"""Small distilled bundles of every sort, made without a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.codecs.f32 import CODEC as F32
from ddlabel.config import ExportConfig
from ddlabel.distilled import hard_section, image_section
from ddlabel.labels._labels import make_section
from ddlabel.labels.dense import KIND as Dense
from ddlabel.preprocess import describe_space, space_sections
from ddlabel.space import Space
from ddlabel.stages.export_set import run
from ddlabel.zca import fit_zca

CLASSES = ("cat", "dog", "emu")
HEIGHT, WIDTH = 6, 4
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def record(stage: str) -> StageRecord:
    return StageRecord(stage, {}, 0, [], {}, 0.0, 0.0, {})


def make_set(
    images: Tensor | None = None,
    *,
    zca: bool = False,
    classes: Sequence[str] = CLASSES,
    labels: Sequence[int] | None = None,
    channels: int = 3,
    lr: float | None = None,
    soft: Mapping[str, Any] | None = None,
    dense: bool = False,
) -> Bundle:
    """Two images a class, uint8 where none are given; `soft` are parameters of soft labels."""
    draws = torch.Generator().manual_seed(1)
    label = torch.tensor([0, 0, 1, 1, 2, 2] if labels is None else list(labels))
    shape = (len(label), channels, HEIGHT, WIDTH)
    pixels = torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)
    matrix = fit_zca(torch.randint(0, 256, (40, *shape[1:]), generator=draws, dtype=torch.uint8)) if zca else None
    space = Space("zca" if zca else "normalised", MEAN[:channels], STD[:channels], matrix)
    data = {
        "name": "tiny", "classes": list(classes), "channels": channels, "height": HEIGHT, "width": WIDTH,
        "train_images": 40, "fingerprint": "0" * 64, "validation": {"fraction": 0.0}, "flip": True,
        "space": describe_space(space),
    }  # fmt: skip
    sections = [
        image_section(pixels if images is None else images, space),
        hard_section(label, len(classes)),
        *space_sections(space),
    ]
    if lr is not None:
        sections.append(NewSection("student.lr", "student", {"student.lr": torch.tensor(lr)}))
    bundle = Bundle.create("distilled", data, record("distill"), sections)
    if soft is not None:
        values = torch.randn((len(label), 1, len(classes)), generator=draws)
        bundle = _labelled(bundle, "soft", {"size": HEIGHT, **soft}, values)
    if dense:
        values = torch.randn((len(label), 4, len(classes)), generator=draws)
        bundle = _labelled(bundle, "dense", Dense(grid=2, ratio="1/2").parameters(HEIGHT), values)
    return bundle


def _labelled(bundle: Bundle, kind: str, parameters: Mapping[str, Any], values: Tensor) -> Bundle:
    section = make_section(
        bundle, kind, parameters, values, domain="logit", codec_name="f32", codec=F32(), teachers=["a" * 64]
    )
    return bundle.with_stage(record("augment-labels"), add=[section])


@pytest.fixture
def make() -> Callable[..., Bundle]:
    """`make_set`."""
    return make_set


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Export a bundle into a new place; where it is, and the sidecar."""

    def write(bundle: Bundle, name: str, form: str, **options: Any) -> tuple[Path, dict[str, Any]]:
        where = {key: options.pop(key) for key in ("force", "on_event") if key in options}
        config = ExportConfig(format=form, **options)
        return tmp_path / name, run(bundle, config, output=str(tmp_path / name), durable=False, **where)

    return write


def floats(scale: float = 1.0, channels: int = 3) -> Tensor:
    """Float images in training space, some of them beyond what pixels can show."""
    return scale * torch.randn((6, channels, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(2))
