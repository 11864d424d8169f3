"""Label kinds against the published offsets, exact fractions and a bilinear resize written out; bytes of labels."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from ddlabel import _plugins
from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.codecs.f32 import CODEC as F32
from ddlabel.distilled import hard_section, image_section
from ddlabel.errors import BundleError, UsageError
from ddlabel.labels._kind import PRIVILEGED
from ddlabel.labels._labels import (
    available_kinds,
    choose_kind,
    load_kind,
    make_section,
    read_labels,
    through_codec,
)
from ddlabel.labels.dense import KIND as Dense
from ddlabel.labels.dense import window_offsets, window_side
from ddlabel.options import build
from ddlabel.preprocess import read_space

RECORD = StageRecord("augment-labels", {}, 0, [], {}, 0.0, 0.0, {})


@pytest.mark.parametrize(
    ("size", "ratio", "grid", "side", "offsets"),
    [
        (32, "5/8", 5, 20, [0, 3, 6, 9, 12]),
        (32, "5/8", 3, 20, [0, 6, 12]),
        (32, "5/8", 7, 20, [0, 2, 4, 6, 8, 10, 12]),
        (32, "5/8", 9, 20, [0, 2, 3, 5, 6, 8, 9, 11, 12]),
        (64, "5/8", 5, 40, [0, 6, 12, 18, 24]),
        (64, "5/8", 3, 40, [0, 12, 24]),
        (64, "5/8", 7, 40, [0, 4, 8, 12, 16, 20, 24]),
        (64, "5/8", 9, 40, [0, 3, 6, 9, 12, 15, 18, 21, 24]),
        (128, "5/8", 5, 80, [0, 12, 24, 36, 48]),
        (128, "5/8", 3, 80, [0, 24, 48]),
        (128, "5/8", 7, 80, [0, 8, 16, 24, 32, 40, 48]),
        (128, "5/8", 9, 80, [0, 6, 12, 18, 24, 30, 36, 42, 48]),
        (224, "5/8", 5, 140, [0, 21, 42, 63, 84]),
        (224, "5/8", 3, 140, [0, 42, 84]),
        (224, "5/8", 7, 140, [0, 14, 28, 42, 56, 70, 84]),
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


def rounded_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


@pytest.mark.parametrize("ratio", ["5/8", "1/2", "3/4", "7/8", "1/1", "3/7"])
def test_windows_are_exact_fractions_rounded_half_up_at_every_size(ratio: str) -> None:
    """8 to 256 px, 2 to 9 windows: from edge to edge, in order, against exact arithmetic."""
    share = Fraction(ratio)
    for size in range(8, 257):
        side = window_side(size, share)

        assert rounded_half_up(share * size) == side
        for grid in range(2, 10):
            offsets = window_offsets(size, side, grid)

            assert [rounded_half_up(Fraction(k * (size - side), grid - 1)) for k in range(grid)] == offsets
            assert (0, size - side) == (offsets[0], offsets[-1])
            assert sorted(offsets) == offsets


def resized(window: list[list[float]], size: int) -> list[list[float]]:
    """Bilinear, pixel centres at half integers (align_corners=False), edges repeated: point by point."""
    side = len(window)

    def sample(position: int) -> tuple[int, int, float]:
        centre = max(0.0, (position + 0.5) * side / size - 0.5)
        low = min(int(centre), side - 1)
        return low, min(low + 1, side - 1), centre - low

    rows = []
    for y in range(size):
        top, bottom, down = sample(y)
        row = []
        for x in range(size):
            left, right, across = sample(x)
            upper = window[top][left] * (1 - across) + window[top][right] * across
            lower = window[bottom][left] * (1 - across) + window[bottom][right] * across
            row.append(upper * (1 - down) + lower * down)
        rows.append(row)
    return rows


@pytest.mark.parametrize(("grid", "ratio"), [(3, "3/4"), (2, "1/2"), (1, "5/8"), (3, "1/1")])
def test_views_of_a_ramp_are_slices_resized_row_by_row(all_views, grid: int, ratio: str) -> None:
    """View r N + t is the window at offsets r, t; resizing by explicit loops."""
    size, kind = 12, Dense(grid=grid, ratio=ratio)
    ramp = [[100.0 * y + x**2 for x in range(size)] for y in range(size)]
    views = all_views(kind, torch.tensor(ramp)[None, None])
    side, offsets = kind.windows(size)
    places = [(top, left) for top in offsets for left in offsets]
    expected = [resized([row[left : left + side] for row in ramp[top : top + side]], size) for top, left in places]

    torch.testing.assert_close(torch.tensor(expected)[None, :, None], views, rtol=1e-6, atol=1e-3)


def test_windows_of_the_whole_image_are_the_image(all_views) -> None:
    """R = 1: bit for bit, whatever N."""
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))

    assert torch.equal(images[:, None].expand(-1, 4, -1, -1, -1), all_views(Dense(grid=2, ratio="1/1"), images))


@pytest.mark.parametrize(("size", "grid", "ratio"), [(16, 3, "3/4"), (32, 5, "5/8"), (9, 9, "1/3"), (8, 1, "5/8")])
def test_dense_views_are_slices_resized_by_torch_bit_for_bit(size: int, grid: int, ratio: str) -> None:
    """For pairs of image and view in any order and repeated."""
    source = torch.Generator().manual_seed(0)
    kind = Dense(grid=grid, ratio=ratio)
    images = torch.randn(7, 2, size, size, generator=source)
    image, view = torch.randint(0, 7, (20,), generator=source), torch.randint(0, grid**2, (20,), generator=source)
    made = kind.view(images, image, view)
    side, offsets = kind.windows(size)
    for index, (picture, number) in enumerate(zip(image.tolist(), view.tolist(), strict=True)):
        top, left = offsets[number // grid], offsets[number % grid]
        crop = images[picture : picture + 1, :, top : top + side, left : left + side]

        assert torch.equal(functional.interpolate(crop, size=(size, size), mode="bilinear")[0], made[index])


@pytest.mark.parametrize("name", sorted(set(_plugins.names("labels")) - set(PRIVILEGED)))
def test_contract_of_label_kinds(all_views, name: str) -> None:
    """Shapes, parameters that make the same views again, and views that do not depend on their batch."""
    kind = _plugins.load("labels", name, "KIND")().bound(seed=0, flip=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    known = {field.name for field in dataclasses.fields(kind)}
    again = type(kind)(**{key: value for key, value in kind.parameters(32).items() if key in known})

    assert (2, kind.view_count, 3, 32, 32) == tuple(all_views(kind, images).shape)
    assert again == kind
    assert torch.equal(
        all_views(kind, images)[:, -1], kind.view(images, torch.arange(2), torch.full((2,), kind.view_count - 1))
    )
    assert torch.equal(all_views(kind, images), all_views(again, images))
    assert {} == kind.augmentation(2, 32)
    assert kind == kind.replaying({}, 32)
    with pytest.raises(UsageError, match="stored draws"):
        kind.replaying({"crop": torch.zeros(2, kind.view_count, 4)}, 32)
    assert torch.equal(before, images)


def labelled(bundle: Bundle, values: torch.Tensor, domain: str = "logit", codec: str = "f32") -> Bundle:
    """The bundle with these soft labels."""
    plugin = _plugins.load("codecs", codec, "CODEC")()
    section = make_section(
        bundle, "soft", {"size": 8}, values, domain=domain, codec_name=codec, codec=plugin, teachers=["0" * 64]
    )
    return bundle.with_stage(RECORD, add=[section])


def test_kinds_are_listed_richest_first(files) -> None:
    """And the richest one is taken by default."""
    assert ["dense", "hard"] == available_kinds(Bundle.open(files.dense))
    assert "dense" == choose_kind(Bundle.open(files.dense))
    assert "hard" == choose_kind(Bundle.open(files.base))


def test_labels_survive_a_round_trip(files) -> None:
    """Values, domain and parameters."""
    values = torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(0))
    labels = read_labels(labelled(Bundle.open(files.base), values), "soft")

    assert torch.equal(values, labels.values)
    own = {key: value for key, value in labels.parameters.items() if key not in {"classes", "space"}}
    assert ("logit", {"size": 8}, None) == (labels.domain, own, labels.refined)


CLOSENESS = {"f32": 0, "f16": 0.001, "bf16": 0.005, "q8": 0.005, "q6": 0.02, "q4": 0.05, "q3": 0.1}


@pytest.mark.parametrize("codec", _plugins.names("codecs"))
def test_probabilities_still_sum_to_one_after_any_codec(files, codec: str) -> None:
    """Within 1e-4 and never negative, zeros and flat rows too; near what was stored; or refused."""
    values = torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(0)).mul(6).softmax(-1)
    values[0, 0], values[1, 0] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.25] * 4)
    if codec in {"klt", "root", "topk-mr", "topk-ms"}:
        with pytest.raises(UsageError, match=f"codec '{codec}' holds logit or logprob labels, these are 'prob'"):
            labelled(Bundle.open(files.base), values, "prob", codec)
        return
    read = read_labels(labelled(Bundle.open(files.base), values, "prob", codec), "soft").values

    assert float((read.sum(-1) - 1).abs().max()) < 1e-4
    assert float(read.min()) >= 0
    torch.testing.assert_close(read, values, rtol=0, atol=CLOSENESS.get(codec, 0.3) + 1e-6)


@pytest.mark.parametrize(
    ("codec", "parameters"),
    [({"name": "f32", "parameters": {"bits": 0}}, {"size": 8}), ({"name": "f32", "parameters": {}}, {"size": 8})],
    ids=["fault 68: an unknown codec option", "fault 67: an impossible grid"],
)
@pytest.mark.fault(67, 68)
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


@pytest.mark.parametrize("ratio", ["0", "0/1", "9/8", "-1/2", "x", "1/0", "1e-999999999", "1/3\n", "٣/٤", "1/1000001"])
@pytest.mark.fault(67)
def test_fault_67_ratios_outside_zero_to_one(ratio: str) -> None:
    """A fraction P/Q in (0, 1]."""
    with pytest.raises(UsageError, match="fraction P/Q"):
        Dense(ratio=ratio).windows(32)


@pytest.mark.parametrize(
    ("grid", "ratio"), [(33, "5/8"), (0, "5/8"), (-2, "5/8"), (3, "1/65")],
    ids=["more windows than pixels", "no window", "fewer than none", "a window of no pixel"],
)  # fmt: skip
@pytest.mark.fault(67)
def test_fault_67_windows_that_do_not_fit(all_views, grid: int, ratio: str) -> None:
    """Before any view is made."""
    with pytest.raises(UsageError, match="do not fit images of 32 px"):
        all_views(Dense(grid=grid, ratio=ratio), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("shape", [(2, 3, 8, 16), (2, 3, 16, 8)], ids=["wide", "tall"])
@pytest.mark.fault(67)
def test_fault_67_dense_labels_of_images_that_are_not_square(shape: tuple[int, ...]) -> None:
    """Height and width named, never silently squeezed."""
    with pytest.raises(UsageError, match=f"these have {shape[2]} x {shape[3]} px"):
        Dense().view(torch.zeros(*shape), torch.tensor([0, 1]), torch.tensor([0, 1]))


def picture(kind: str, source: torch.Generator) -> torch.Tensor:
    """50 images of 3 x 128 x 128 uint8 pixels that deflate compresses well, little, or not at all."""
    noise = torch.rand(50, 3, 128, 128, generator=source)
    coarse = torch.rand(50, 3, 8, 8, generator=source).repeat_interleave(16, 2).repeat_interleave(16, 3)
    amplitude = {"smooth": 0.15, "noisy": 0.4, "uniform noise": 1.0}[kind]
    return (255 * ((1 - amplitude) * coarse + amplitude * noise)).to(torch.uint8)


@pytest.mark.parametrize("kind", ["smooth", "noisy", "uniform noise"])
def test_dense_labels_cost_what_ladd_counts(files, kind: str) -> None:
    """50 images of 128 px, 25 views, 10 classes: 50,000 bytes, 2.034 % of the pixels, 1.8 to 2.8 % when zipped."""
    base, source = Bundle.open(files.base), torch.Generator().manual_seed(0)
    data = {**base.manifest.data, "classes": [str(index) for index in range(10)], "height": 128, "width": 128}
    pixels = picture(kind, source)
    sections = [image_section(pixels, read_space(base)), hard_section(torch.arange(10).repeat_interleave(5), 10)]
    bundle = Bundle.create("distilled", data, RECORD, sections)
    values = torch.randn(50, 25, 10, generator=source).mul(3).softmax(-1)
    dense = make_section(
        bundle, "dense", Dense().parameters(128), values, domain="prob", codec_name="f32", codec=F32(), teachers=[]
    )
    storage = bundle.with_stage(RECORD, add=[dense]).manifest.storage

    assert 50_000 == storage["sections"]["labels.dense"]["raw"]
    assert pytest.approx(0.020345, abs=1e-6) == storage["overhead"]["raw"]
    assert 0.018 < storage["overhead"]["ladd_zip"] < 0.028


def test_fresh_labels_go_through_the_codec_of_a_bundle(files) -> None:
    """Of all views: pruned like the bundle's, in the domain that the codec decodes to."""
    source = torch.Generator().manual_seed(0)
    fresh = torch.randn(12, 9, 4, generator=source)
    bundle = Bundle.open(files.base)
    codec = build(_plugins.load("codecs", "prune", "CODEC"), {"keep": 0.34, "values": "topk-ms"})
    parameters = {"grid": 3, "ratio": "1/2", "resize": "bilinear", "size": 8}
    section = make_section(
        bundle, "dense", parameters, fresh, domain="logit", codec_name="prune", codec=codec, teachers=["0" * 64]
    )
    labels = read_labels(bundle.with_stage(RECORD, add=[section]), "dense")
    whole = dataclasses.replace(labels, values=fresh, domain="logit", view_ids=None)
    again = through_codec(whole, "prune", {"keep": 0.34, "values": "topk-ms", "kind": "not its own"})

    assert "logprob" == labels.domain == again.domain
    assert (12, 3, 4) == tuple(again.values.shape) == tuple(labels.values.shape)
    assert torch.equal(labels.values, again.values)
    assert labels.view_ids is not None
    assert torch.equal(labels.view_ids, again.view_ids)
    assert torch.equal(labels.values, through_codec(labels, "prune", labels.section.codec["parameters"]).values)
