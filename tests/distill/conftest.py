"""A tiny problem: 3 classes of coloured blobs, 8 x 8 pixels, and a teacher that projects pixels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.distill._method import Problem
from ddlabel.nets._net import Net, build, calibrate_norms
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.teachers import Checkpoint, checkpoint_section
from ddlabel.trajectories import Trajectories, flatten

SIZES = (9, 12, 7)
"""Images per class: unequal on purpose."""


class Projection:
    """Features are a fixed random projection of the pixels, logits one of the features."""

    def features(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> Tensor:
        del device
        weights = torch.randn(pixels[0].numel(), 6, generator=generator(0, "projection"))
        return pixels.flatten(1).float() @ weights / 2000

    def outputs(self, pixels: Tensor, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        features = self.features(pixels, device=device)
        return features @ torch.randn(6, 3, generator=generator(0, "head")), features


def counts(pixels: Tensor) -> Tensor:
    """What a training run might have recorded: how often each image was forgotten, with many ties."""
    return (pixels.flatten(1).long().sum(dim=1) % 4).float()


def blobs() -> tuple[Tensor, Tensor]:
    """(28, 3, 8, 8) uint8 and shuffled labels (28,): class c is bright in channel c."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(SIZES)])
    labels = labels[torch.randperm(len(labels), generator=generator(0, "order"))]
    pixels = torch.randint(0, 120, (len(labels), 3, 8, 8), generator=generator(0, "noise"))
    pixels[torch.arange(len(labels)), labels] += 120
    return pixels.to(torch.uint8), labels


def trained_nets(*archs: str, classes: int = 3, size: int = 8) -> tuple[Net, ...]:
    """Nets as stages hand them to methods: frozen, in eval mode; those with batch norm have seen real images."""
    nets = [build(arch, channels=3, size=size, classes=classes, generator=generator(0, arch)) for arch in archs]
    for net in nets:
        calibrate_norms(net, torch.randn(32, 3, size, size, generator=generator(0, "seen")))
    return tuple(net.eval().requires_grad_(False) for net in nets)


def teacher_bundle(
    *,
    arch: str = "convnet-d1-w4-instance",
    experts: int = 2,
    epochs: int = 4,
    seed: int = 0,
    classes: tuple[str, ...] = ("red", "green", "blue"),
) -> Bundle:
    """Experts that walk at random: parameters after `epochs` epochs, the last ones also as checkpoints."""
    space = {"kind": "normalised", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    data = {
        "name": "blobs",
        "classes": list(classes),
        "channels": 3,
        "height": 8,
        "width": 8,
        "train_images": sum(SIZES),
        "fingerprint": "0" * 64,
        "validation": {"fraction": 0.0},
        "flip": True,
        "space": space,
    }
    sections = []
    for expert in range(experts):
        draws = generator(seed, "walk", expert)
        net = build(arch, channels=3, size=8, classes=len(classes), generator=draws)
        rows = [flatten(net)]
        for _epoch in range(epochs):
            rows.append(rows[-1] + 0.05 * torch.randn(len(rows[-1]), generator=draws))
        torch.nn.utils.vector_to_parameters(rows[-1], net.parameters())
        name = f"trajectory.{expert}"
        parameters = {"arch": arch, "member": expert, "epochs": list(range(epochs + 1)), "seed": seed}
        sections.append(NewSection(name, "trajectory", {name: torch.stack(rows)}, parameters=parameters))
        accuracy = {"validation": None, "test": None}
        checkpoint = Checkpoint(f"teacher.{expert}.{epochs}", expert, epochs, arch, accuracy)
        sections.append(checkpoint_section(net, checkpoint, seed=seed))
    record = StageRecord("train-teacher", {}, seed, [], {}, 0.0, 0.0, {})
    return Bundle.create("teacher", data, record, sections)


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Builds the tiny problem with any field changed."""

    def make(**changes: object) -> Problem:
        pixels, labels = blobs()
        fields: dict[str, object] = {
            "pixels": pixels,
            "labels": labels,
            "classes": ("red", "green", "blue"),
            "space": Space("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
            "ipc": 4,
            "arch": "convnet-d1-w4-instance",
            "flip": True,
            "teacher": Projection(),
            "device": torch.device("cpu"),
            "seed": 0,
        }
        classes = changes.get("classes", fields["classes"])
        fields["scores"] = {"forgetting": counts(changes.get("pixels", pixels))}  # type: ignore[arg-type]
        fields["backbones"] = trained_nets("convnet-d1-w4-bn", "convnet-d2-w4-bn", classes=len(classes))  # type: ignore[arg-type]
        fields["trajectories"] = Trajectories([teacher_bundle(classes=classes)])  # type: ignore[arg-type]
        return Problem(**(fields | changes))  # type: ignore[arg-type]

    return make
