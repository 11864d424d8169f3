"""Protocols against the table of published hyper-parameters, written out here by hand."""

from __future__ import annotations

import dataclasses

import pytest

from ddlabel import _plugins
from ddlabel.protocols._protocol import LossChoice, Student, is_online, loss_of
from ddlabel.protocols.gift import batch_for
from ddlabel.training import Recipe

CONVNET = Student(arch="convnet-d3-w128-instance", stored_images=100, learned_lr=None, classes=10, side=32)


def recipe(name: str, student: Student = CONVNET) -> Recipe:
    found: Recipe = _plugins.load("protocols", name, "PROTOCOL").recipe(student)
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dc", ("sgd", 0.01, 0.9, 5e-4, "step", 300, 256, "none", False, "all")),
        ("ddranking", ("sgd", 0.01, 0.9, 5e-4, "step", 300, 256, "dsa", False, "all")),
        ("dm", ("sgd", 0.01, 0.9, 5e-4, "step", 1000, 256, "dsa", False, "all")),
        ("continual", ("sgd", 0.01, 0.9, 5e-4, "step", 1000, 256, "dsa", False, "all")),
        ("mtt", ("sgd", 0.01, 0.9, 5e-4, "step", 1000, 256, "dsa", False, "all")),
        ("datm", ("sgd", 0.01, 0.9, 5e-4, "step", 1000, 128, "dsa", False, "all")),
        ("glad", ("sgd", 1e-3, 0.9, 5e-4, "glad", 1000, 256, "dsa", True, "all")),
        ("gift", ("adamw", 1e-3, 0.0, 1e-4, "gift", 1000, 50, "dsa-composite", False, "all")),
        ("fkd", ("adamw", 1e-3, 0.0, 0.01, "cosine", 300, 1024, "imagenet-crop", False, "weights")),
        ("rded", ("adamw", 1e-3, 0.0, 0.01, "half-cosine", 300, 50, "flip", False, "weights")),
        ("kd", ("adamw", 1e-3, 0.0, 0.01, "half-cosine", 300, 50, "flip", False, "weights")),
        ("gvbsm", ("adamw", 1e-3, 0.0, 0.01, "cosine", 1000, 100, "imagenet-crop", False, "weights")),
    ],
)
def test_recipes_are_the_published_ones(name: str, expected: tuple[object, ...]) -> None:
    """Optimiser, rate, momentum, decay, schedule, epochs, batch, augmentation, averaging, what decays; no more."""
    names = [field.name for field in dataclasses.fields(Recipe)]

    assert Recipe(**dict(zip(names, expected, strict=False))) == recipe(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mtt", "datm"])
def test_trajectory_matching_takes_the_learned_rate_of_the_bundle(name: str) -> None:
    """The step size that the distillation learned."""
    learned = dataclasses.replace(CONVNET, learned_lr=0.025)

    assert recipe(name, learned).lr == 0.025


def test_glad_lowers_the_rate_of_vgg() -> None:
    """1e-4 for VGG11."""
    assert recipe("glad", dataclasses.replace(CONVNET, arch="vgg11-instance")).lr == 1e-4


@pytest.mark.parametrize(("images", "batch"), [(10, 10), (11, 50), (500, 50), (501, 100), (20_000, 100), (20_001, 200)])
def test_gift_batch_follows_the_set_size(images: int, batch: int) -> None:
    """The published steps, at both sides of each."""
    assert batch == batch_for(images)


@pytest.mark.parametrize(
    ("arch", "lr"),
    [
        ("convnet-d4-w128-instance", 1e-3),
        ("resnet18-batch", 1e-3),
        ("vgg11-instance", 5e-4),
        ("alexnet", 1e-4),
        ("efficientnet-b0", 2e-3),
        ("mobilenet-v2", 2.5e-3),
        ("vit-b16", 1e-4),
        ("swin-v2-t", 1e-4),
    ],
)
def test_rdeds_rate_follows_the_net(arch: str, lr: float) -> None:
    """Its table."""
    assert recipe("rded", dataclasses.replace(CONVNET, arch=arch)).lr == lr


@pytest.mark.parametrize(
    ("images", "classes", "batch"),
    [
        (10, 10, 10), (40, 10, 10), (50, 10, 50), (100, 10, 50), (290, 10, 50), (300, 10, 100), (500, 10, 100),
        (100, 100, 20), (1000, 100, 100), (5000, 100, 200), (50_000, 1000, 200),
        (200, 200, 100), (2000, 200, 100), (10_000, 200, 100),
        (2, 2, 2), (4, 10, 4),
    ],
)  # fmt: skip
def test_rdeds_batch_follows_images_per_class_and_classes(images: int, classes: int, batch: int) -> None:
    """10, 50 or 100, twice that for 100 or 1000 classes, 100 for Tiny-ImageNet, never more than there are."""
    student = dataclasses.replace(CONVNET, stored_images=images, classes=classes)

    assert recipe("rded", student).batch == batch


def test_rded_crops_mosaics_alone() -> None:
    """From 128 px on; below, a crop of the whole image is none."""
    assert ["flip", "flip", "resized-crop", "resized-crop"] == [
        recipe("rded", dataclasses.replace(CONVNET, side=side)).augment for side in (32, 64, 128, 224)
    ]


@pytest.mark.parametrize("name", _plugins.names("protocols"))
def test_every_protocol_names_its_source_and_says_how_often_it_looks(name: str) -> None:
    """Contract of the room."""
    protocol = _plugins.load("protocols", name, "PROTOCOL")

    assert "arXiv" in _plugins.summary("protocols", name)
    assert protocol.test_evaluations >= 1
    assert "Differs from" in (type(protocol).__doc__ or "")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"classes": 100}, ("sgd", 0.1, 0.9, 5e-4, "cosine", 1000, 64, "imagenet-crop")),
        ({"classes": 200, "side": 64}, ("sgd", 0.1, 0.9, 5e-4, "cosine", 100, 100, "imagenet-crop")),
        ({"side": 64, "arch": "resnet101-m-batch"}, ("sgd", 0.1, 0.9, 1e-3, "cosine", 100, 100, "imagenet-crop")),
        (
            {"classes": 1000, "side": 224},
            ("adamw", 1e-3, 0.0, 0.01, "cosine", 300, 1024, "imagenet-crop", False, "weights"),
        ),
    ],
)
def test_gvbsms_student_follows_the_data(changed: dict[str, object], expected: tuple[object, ...]) -> None:
    """Its table; CIFAR-10 stands above."""
    names = [field.name for field in dataclasses.fields(Recipe)]

    assert Recipe(**dict(zip(names, expected, strict=False))) == recipe(
        "gvbsm", dataclasses.replace(CONVNET, **changed)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "labels", "side", "expected"),
    [
        ("gvbsm", "fkd", 32, LossChoice("mse_ce", {"weight": 0.15})),
        ("gvbsm", "soft", 64, LossChoice("mse_ce", {"weight": 0.1})),
        ("gvbsm", "fkd", 224, LossChoice("mse_ce", {"weight": 0.1})),
        ("gvbsm", "hard", 32, None),
        ("gvbsm", "dense", 32, None),
        ("fkd", "fkd", 224, LossChoice("kl", {"temperature": 20.0})),
        ("fkd", "soft", 224, None),
        ("fkd", "hard", 32, None),
        ("kd", "online", 32, LossChoice("kl")),
        ("kd", "soft", 32, None),
        ("rded", "soft", 32, None),
    ],
)
def test_a_protocol_may_bring_its_loss(name: str, labels: str, side: int, expected: LossChoice | None) -> None:
    """G-VBSM's weight by data set, SRe2L's divergence without T^2; others leave the loss to the labels."""
    plugin = _plugins.load("protocols", name, "PROTOCOL")

    assert expected == loss_of(plugin, dataclasses.replace(CONVNET, side=side), labels)
    assert is_online(plugin) == (name == "kd")


@pytest.mark.parametrize(
    ("side", "factor", "online", "augment"),
    [
        (32, None, True, "flip"),
        (224, None, True, "shuffle-patches"),
        (224, None, False, "resized-crop"),
        (32, 2, True, "shuffle-patches"),
        (32, 3, True, "shuffle-patches-3"),
        (32, 3, False, "resized-crop-3"),
        (224, 1, True, "flip"),
    ],
)
def test_rdeds_augmentation_follows_the_mosaics(side: int, factor: int | None, online: bool, augment: str) -> None:
    """Patches are shuffled where a live teacher answers; the history's factor wins over the side."""
    student = dataclasses.replace(CONVNET, side=side, factor=factor, online=online)

    assert augment == recipe("kd", student).augment == recipe("rded", student).augment
