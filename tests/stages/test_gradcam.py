"""Grad-CAM against nets whose maps are known in closed form, its numbers by hand, and the folder it fills."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ddlabel import seeding
from ddlabel.bundle import Bundle
from ddlabel.cli._gradcam import check_folder
from ddlabel.data._dataset import Dataset, DatasetInfo, Split
from ddlabel.errors import ResourceError, UsageError
from ddlabel.nets._net import Net, build, on_meta
from ddlabel.space import Space
from ddlabel.stages._gradcam import (
    STEPS,
    GradCam,
    centre_share,
    class_maps,
    enlarge,
    faithfulness,
    has_maps,
    select_images,
    stretch,
)

QUICK = ("--epochs", "1", "--seeds", "1")


class MeanNet(Net):
    """A convolution, means over space, a linear layer: Grad-CAM is ReLU(sum_k w_ck A_k) over the number of places."""

    def __init__(self, channels: int, maps: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, maps, 3, padding=1, dtype=torch.float64)
        self.classifier = nn.Linear(maps, classes, dtype=torch.float64)

    def chain(self) -> Sequence[Callable[[Tensor], Tensor]]:
        return (lambda images: functional.relu(self.conv(images)),)

    def gather(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(features)
        return logits


class Sums(nn.Module):
    """Two classes, of which the first has the sum of all pixels as its logit."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.sum(dim=(1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def test_maps_of_a_net_of_means_are_its_class_weights() -> None:
    """Every image has the map of its own target, although all are asked for together."""
    source = seeding.generator(0, "gradcam test")
    net = MeanNet(2, 6, 3).eval()
    images = torch.randn(4, 2, 5, 7, generator=source, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 1])
    maps, logits = class_maps(net, images, targets)
    weights = net.classifier.weight[targets][:, :, None, None]
    expected = functional.relu((weights * functional.relu(net.conv(images))).sum(dim=1)) / 35

    assert torch.allclose(expected, maps, rtol=1e-12, atol=0)
    assert torch.equal(net(images), logits)
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_maps_lie_where_the_evidence_of_a_class_lies() -> None:
    """One filter sees red, the other blue; the class of red has its map on the red pixel and no other."""
    net = MeanNet(3, 2, 2).eval()
    with torch.no_grad():
        net.conv.weight.zero_()
        net.conv.weight[0, 0, 1, 1] = net.conv.weight[1, 2, 1, 1] = 1.0
        net.conv.bias.zero_()
        net.classifier.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    images = torch.zeros(2, 3, 6, 6, dtype=torch.float64)
    images[:, 0, 1, 4] = images[:, 2, 5, 0] = 2.0
    maps, _logits = class_maps(net, images, torch.tensor([0, 1]))

    assert maps.nonzero().tolist() == [[0, 1, 4], [1, 5, 0]]


@pytest.mark.parametrize(
    ("arch", "side", "shape"),
    [
        ("convnet-d5", 128, (128, 8, 8)),
        ("convnet-d3-w16-bn-max", 32, (16, 8, 8)),
        ("convnet-d2-w16-nopool", 32, (16, 32, 32)),
        ("resnet18", 32, (512, 4, 4)),
        ("vgg11", 32, (512, 2, 2)),
        ("alexnet", 32, (192, 8, 8)),
        ("lenet", 32, (16, 10, 10)),
        ("mlp", 32, (128,)),
    ],
)
def test_the_layer_is_the_last_activation_before_the_last_pooling(arch: str, side: int, shape: tuple[int, ...]) -> None:
    """ConvNetD5 at 128 px has 128 maps of 8 x 8."""
    maps, logits = on_meta(arch, channels=3, size=side, classes=10).last_maps(
        torch.empty(2, 3, side, side, device="meta")
    )

    assert (2, *shape) == tuple(maps.shape)
    assert tuple(logits.shape) == (2, 10)


@pytest.mark.parametrize("arch", ["convnet-d2-w8", "convnet-d2-w8-swish-max", "convnet-d1-w8-nopool", "lenet", "mlp"])
def test_the_logits_beside_the_maps_are_those_of_the_net(arch: str) -> None:
    """Bit for bit; activations are not negative after ReLU."""
    net = build(arch, channels=3, size=16, classes=5, generator=seeding.generator(0, arch)).eval()
    images = torch.randn(3, 3, 16, 16, generator=seeding.generator(1, arch))
    maps, logits = net.last_maps(images)

    assert torch.equal(net(images), logits)
    assert "swish" in arch or bool((maps >= 0).all())


def test_maps_grow_with_pixel_centres_in_place_and_are_stretched() -> None:
    """Quarters between two values; the same everywhere is nothing."""
    large = enlarge(torch.tensor([[[0.0, 4.0]], [[3.0, 3.0]]]), (1, 4))

    assert large.tolist() == [[[0.0, 1.0, 3.0, 4.0]], [[3.0, 3.0, 3.0, 3.0]]]
    assert stretch(large).tolist() == [[[0.0, 0.25, 0.75, 1.0]], [[0.0, 0.0, 0.0, 0.0]]]


def test_the_centre_box_has_half_of_the_area() -> None:
    """All of the middle, none of a corner, half of a map that is the same everywhere; a cut pixel counts in part."""
    maps = torch.zeros(4, 8, 8)
    maps[0, 2:6, 2:6], maps[1, 0, 0], maps[2] = 1.0, 1.0, 0.3
    shares = centre_share(maps)

    assert shares[:3].tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-12)
    assert math.isnan(shares[3])
    assert centre_share(torch.tensor([[[5.0, 0.0], [0.0, 0.0]]])).tolist() == pytest.approx([0.5], abs=1e-12)


def test_areas_under_both_curves() -> None:
    """All evidence in one pixel: at once there or gone when the map knows it, last when the map has it upside down."""
    images = torch.zeros(2, 1, 5, 4, dtype=torch.float64)
    images[:, 0, 3, 2] = 2.0
    maps = images[:, 0] * torch.tensor([1.0, -1.0])[:, None, None]
    sure = 1 / (1 + math.exp(-2))
    insertion, deletion = faithfulness(Sums(), images, torch.tensor([0, 0]), maps)
    high, low = ((0.5 + sure) / 2 + (STEPS - 1) * chance for chance in (sure, 0.5))

    assert insertion.tolist() == pytest.approx([high / STEPS, low / STEPS], abs=1e-12)
    assert deletion.tolist() == pytest.approx([low / STEPS, high / STEPS], abs=1e-12)


def test_images_are_drawn_class_by_class() -> None:
    """Two of each class, or one of each of a hundred classes; a function of the seed."""
    labels = torch.arange(300) % 10
    chosen = select_images(labels, 10, 0)
    many = torch.arange(600) % 150
    few = select_images(many, 150, 0)

    assert labels[chosen].tolist() == [label for label in range(10) for _ in range(2)]
    assert len(chosen.unique()) == 20
    assert torch.equal(chosen, select_images(labels, 10, 0))
    assert not torch.equal(chosen, select_images(labels, 10, 1))
    assert len(many[few].unique()) == len(few) == 100


def test_the_folder_has_a_sheet_and_the_maps_of_every_net(run_cli, files, tmp_path: Path) -> None:
    """The record has their numbers and no folder; nets without maps are said to be skipped."""
    folder = tmp_path / "maps"
    arguments = ("evaluate", files.base, "--data", files.data, *QUICK, "--arch", "convnet-d1-w8,mlp")
    outcome = run_cli(*arguments, "--gradcam", folder, "-o", tmp_path / "s.ddset")
    again = run_cli(*arguments, "--gradcam", folder)
    manifest = Bundle.open(tmp_path / "s.ddset", verify=True).manifest
    seen, skipped = manifest.evaluations[-1]["gradcam"]
    name = "convnet-d1-w8-instance"

    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.npz", f"{name}.png"]
    assert f"wrote {folder / name}.png" in outcome.err
    with Image.open(folder / f"{name}.png") as sheet:
        assert sheet.size[0] > 4 * 2 * 100
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        assert arrays["maps"].shape == (8, 8, 8)
        assert arrays["raw"].shape == (8, 8, 8)
        assert arrays["labels"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert (arrays["indices"].tolist(), arrays["predicted"].tolist()) == (seen["indices"], seen["predicted"])
        assert 0 <= float(arrays["maps"].min()) < float(arrays["maps"].max()) == 1
    assert (seen["arch"], seen["map"]) == (name, [8, 8])
    assert all(0 < seen[key] < 1 for key in ("centre_share", "insertion_auc", "deletion_auc"))
    assert (skipped["arch"], list(skipped)) == ("mlp", ["arch", "skipped"])
    assert "mlp is skipped" in outcome.err
    assert str(tmp_path) not in json.dumps(manifest.history[-1]["config"])
    assert (again.code, "is not empty" in again.err) == (2, True)


def test_force_writes_over_what_is_there(run_cli, files, tmp_path: Path) -> None:
    """Files of the same names are replaced, others are left alone."""
    (tmp_path / "convnet-d1-w8-instance.png").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    outcome = run_cli(
        "evaluate",
        files.base,
        "--data",
        files.data,
        *QUICK,
        "--arch",
        "convnet-d1-w8",
        "--gradcam",
        tmp_path,
        "--force",
    )

    assert outcome.code == 0, outcome.err
    assert (tmp_path / "convnet-d1-w8-instance.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("a/b/c", "does not exist"),
        ("file", "a file, expected a folder"),
        ("", "expected a folder"),
        ("-", "expected a folder"),
    ],
)
def test_places_that_are_no_folders_are_refused(run_cli, files, tmp_path: Path, place: str, says: str) -> None:
    """Before any student is trained."""
    (tmp_path / "file").write_text("")
    named = str(tmp_path / place) if place not in {"", "-"} else place
    outcome = run_cli("evaluate", files.base, "--data", files.data, *QUICK, "--arch", "mlp", "--gradcam", named)

    assert outcome.code == 2
    assert says in outcome.err
    assert "seed 0" not in outcome.err


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch) -> None:
    """As for outputs, before any work."""
    monkeypatch.setattr("os.access", lambda _path, mode: not mode & os.W_OK)
    with pytest.raises(ResourceError, match="is not writable"):
        check_folder(str(tmp_path), force=False)
    with pytest.raises(UsageError, match="an input or the output"):
        check_folder(str(tmp_path), force=False, files=[str(tmp_path)])


@pytest.mark.parametrize("archs", ["mlp", "vit", "mlp,vit"])
def test_nets_without_maps_alone_are_refused(run_cli, files, tmp_path: Path, archs: str) -> None:
    """There would be nothing to show; nothing is trained and no folder is made."""
    outcome = run_cli(
        "evaluate", files.base, "--data", files.data, *QUICK, "--arch", archs, "--gradcam", tmp_path / "maps"
    )

    assert outcome.code == 2
    assert f"{archs.replace(',', ', ')} has none" in outcome.err
    assert "seed 0" not in outcome.err
    assert not (tmp_path / "maps").exists()


def two_images(side: int) -> Dataset:
    """One test image of each of two classes, and no others."""
    classes, ones = ("a", "b"), (1.0,) * 3
    info = DatasetInfo(
        name="two", classes=classes, channels=3, height=side, width=side, mean=ones, std=ones, flip=True, licence="none"
    )
    pixels, labels = torch.zeros(2, 3, side, side, dtype=torch.uint8), torch.tensor([0, 1])
    nothing = Split(pixels[:0], labels[:0])
    return Dataset(
        info=info,
        train=nothing,
        validation=nothing,
        test=Split(pixels, labels),
        fingerprint="0" * 64,
        validation_fraction=0.0,
    )


@pytest.mark.parametrize(
    ("arch", "side", "maps"),
    [("vit", 8, False), ("vit", 128, False), ("vit-b-16", 32, False), ("resnet18", 32, True)],
)
def test_tokens_are_no_maps(arch: str, side: int, maps: bool) -> None:
    """Those of a ViT have four axes too, but not those of the image."""
    assert has_maps(arch, two_images(side).info) == maps


@pytest.mark.parametrize("arch", ["vit", "vit-b-16"])
def test_students_of_tokens_are_skipped_and_it_is_said(arch: str) -> None:
    """The record says it too; the student is not even asked."""
    said: list[str | None] = []
    cam = GradCam(
        two_images(16),
        Space("normalised", (0.0,) * 3, (1.0,) * 3),
        seed=0,
        on_overlays=None,
        on_event=lambda event: said.append(event.message),
    )
    cam.show(*cam.look(on_meta(arch, channels=3, size=16, classes=2), arch))

    assert said == [f"gradcam: {arch} is skipped, it has no maps before its end"]
    assert [(entry["arch"], list(entry)) for entry in cam.record] == [(arch, ["arch", "skipped"])]
