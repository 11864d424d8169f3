"""Label kinds against the published offsets and manual slicing; reading against damaged bundles."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from ddlabel import _plugins
from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.codecs.f32 import CODEC as F32
from ddlabel.distilled import read_distilled
from ddlabel.errors import BundleError, UsageError
from ddlabel.labels._labels import available_kinds, choose_kind, load_kind, make_section, read_labels
from ddlabel.labels.dense import KIND as Dense
from ddlabel.labels.dense import window_offsets, window_side

RECORD = StageRecord("augment-labels", {}, 0, [], {}, 0.0, 0.0, {})


@pytest.mark.parametrize(
    ("size", "ratio", "grid", "side", "offsets"),
    [
        (32, "5/8", 5, 20, [0, 3, 6, 9, 12]),
        (32, "5/8", 3, 20, [0, 6, 12]),
        (32, "5/8", 7, 20, [0, 2, 4, 6, 8, 10, 12]),
        (32, "5/8", 9, 20, [0, 2, 3, 5, 6, 8, 9, 11, 12]),
        (64, "5/8", 5, 40, [0, 6, 12, 18, 24]),
        (128, "5/8", 5, 80, [0, 12, 24, 36, 48]),
        (224, "5/8", 9, 140, [0, 11, 21, 32, 42, 53, 63, 74, 84]),
        (128, "1/2", 7, 64, [0, 11, 21, 32, 43, 53, 64]),
        (32, "5/8", 1, 20, [6]),
        (32, "1/1", 3, 32, [0, 0, 0]),
    ],
)
def test_windows_follow_the_integer_rule(size: int, ratio: str, grid: int, side: int, offsets: list[int]) -> None:
    """The table of published and rounded offsets."""
    assert side == window_side(size, Fraction(ratio))
    assert offsets == window_offsets(size, side, grid)


@pytest.mark.parametrize("size", [8, 9, 31, 32, 65, 256])
@pytest.mark.parametrize("grid", [2, 3, 5, 8])
def test_windows_cover_the_image_from_edge_to_edge(size: int, grid: int) -> None:
    """First at 0, last at the far edge, in order."""
    side = window_side(size, Fraction(5, 8))
    offsets = window_offsets(size, side, grid)

    assert (0, size - side) == (offsets[0], offsets[-1])
    assert sorted(offsets) == offsets


def test_views_are_slices_resized_row_by_row() -> None:
    """Against slicing by hand; one view at a time gives the same bits."""
    images = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    kind = Dense(grid=3, ratio="3/4")
    views = kind.views(images)
    index = torch.tensor([0, 4, 7])
    by_hand = functional.interpolate(images[:, :, 4:16, 2:14], size=16, mode="bilinear")

    assert torch.equal(by_hand, views[:, 7])
    assert torch.equal(views[torch.arange(3), index], kind.view(images, index))


@pytest.mark.parametrize("name", _plugins.names("labels"))
def test_contract_of_label_kinds(name: str) -> None:
    """Shapes, and parameters that make the same views again."""
    kind = _plugins.load("labels", name, "KIND")()
    images = torch.randn(2, 3, 32, 32)
    known = {field.name for field in dataclasses.fields(kind)}
    again = type(kind)(**{key: value for key, value in kind.parameters(32).items() if key in known})

    assert (2, kind.view_count, 3, 32, 32) == tuple(kind.views(images).shape)
    assert again == kind


def labelled(bundle: Bundle, values: torch.Tensor, domain: str = "logit", size: int = 8) -> Bundle:
    """The bundle with these soft labels."""
    section = make_section(
        bundle, "soft", {"size": size}, values, domain=domain, codec_name="f32", codec=F32(), teachers=["0" * 64]
    )
    return bundle.with_stage(RECORD, add=[section])


def test_kinds_are_listed_richest_first(files) -> None:
    """And the richest one is taken by default."""
    assert ["dense", "hard"] == available_kinds(Bundle.open(files.dense))
    assert "dense" == choose_kind(Bundle.open(files.dense))
    assert "hard" == choose_kind(Bundle.open(files.base))


def test_labels_survive_a_round_trip(files) -> None:
    """Values, domain and parameters."""
    values = torch.randn(12, 1, 4)
    labels = read_labels(labelled(Bundle.open(files.base), values), "soft")

    assert torch.equal(values, labels.values)
    assert ("logit", {"size": 8}, None) == (labels.domain, dict(labels.parameters), labels.refined)


def test_fault_64_rows_that_are_no_distribution_are_named(files) -> None:
    """Sum and sign of probabilities."""
    for bad in ([0.5, 0.5, 0.5, 0.0], [1.5, -0.5, 0.0, 0.0]):
        values = torch.full((12, 1, 4), 0.25)
        values[5, 0] = torch.tensor(bad)
        with pytest.raises(BundleError, match="image 5, view 0 is no distribution"):
            read_labels(labelled(Bundle.open(files.base), values, "prob"), "soft")


def test_fault_63_labels_that_are_not_finite_are_named(files) -> None:
    """Written by somebody else's encoder."""
    bundle = Bundle.open(files.base)
    values = torch.zeros(12, 1, 4)
    values[3, 0, 1] = float("nan")
    section = NewSection(
        "labels.soft", "labels", {"labels.soft.values": values}, role="soft", domain="logit", views=1,
        codec={"name": "f32", "parameters": {}}, parameters={"size": 8}, of=bundle.images_digest(), teacher=["0" * 64],
    )  # fmt: skip
    with pytest.raises(BundleError, match="image 3, view 0 is not finite"):
        read_labels(bundle.with_stage(RECORD, add=[section]), "soft")


def test_fault_65_hard_labels_outside_the_classes_are_named(files) -> None:
    """Image and value."""
    bundle = Bundle.open(files.base)
    labels = bundle.tensor("labels.hard")
    labels[7] = 4
    broken = bundle.with_stage(
        RECORD, add=[NewSection("labels.hard", "labels", {"labels.hard": labels}, role="hard", views=1)]
    )
    with pytest.raises(BundleError, match="image 7 class 4, expected 0 to 3"):
        read_distilled(broken)


def test_fault_63_images_that_are_not_finite_are_refused(files) -> None:
    """Float images of somebody else."""
    bundle = Bundle.open(files.base)
    images = torch.full((12, 3, 8, 8), float("inf"))
    broken = bundle.with_stage(RECORD, add=[NewSection("images", "images", {"images.pixels": images}, range="float32")])
    with pytest.raises(BundleError, match="NaN or infinity"):
        read_distilled(broken)


@pytest.mark.parametrize(
    ("codec", "parameters"),
    [({"name": "f32", "parameters": {"bits": 0}}, {"size": 8}), ({"name": "f32", "parameters": {}}, {"size": 8})],
    ids=["fault 68: an unknown codec option", "fault 67: an impossible grid"],
)
def test_options_of_a_file_are_checked_like_those_of_a_user(files, codec: dict, parameters: dict) -> None:
    """A BundleError that names the section, never a crash."""
    bundle = Bundle.open(files.base)
    kind, views = ("soft", 1) if codec["parameters"] else ("dense", 2)
    section = NewSection(
        f"labels.{kind}", "labels", {f"labels.{kind}.values": torch.zeros(12, views, 4)}, role=kind, domain="logit",
        views=views, codec=codec, parameters={**parameters, "grid": 0}, of=bundle.images_digest(), teacher=["0" * 64],
    )  # fmt: skip
    with pytest.raises(BundleError, match=f"'labels.{kind}' was written with impossible options"):
        load_kind(read_labels(bundle.with_stage(RECORD, add=[section]), kind))


def test_fault_66_labels_for_another_number_of_images(files) -> None:
    """Refused when the section is made."""
    with pytest.raises(BundleError):
        labelled(Bundle.open(files.base), torch.zeros(11, 1, 4))


def test_labels_of_other_classes_or_sizes_are_refused(files) -> None:
    """Both sides named."""
    with pytest.raises(BundleError, match="has 5 classes, the data has 4"):
        read_labels(labelled(Bundle.open(files.base), torch.zeros(12, 1, 5)), "soft")
    with pytest.raises(BundleError, match="made for images of 16 px, these have 8"):
        read_labels(labelled(Bundle.open(files.base), torch.zeros(12, 1, 4), size=16), "soft")


@pytest.mark.parametrize("ratio", ["0", "0/1", "9/8", "-1/2", "x", "1/0"])
def test_fault_67_ratios_outside_zero_to_one(ratio: str) -> None:
    """A fraction P/Q in (0, 1]."""
    with pytest.raises(UsageError, match="fraction P/Q"):
        Dense(ratio=ratio).windows(32)
