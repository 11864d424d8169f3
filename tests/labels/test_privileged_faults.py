"""Feature labels that must not reach a student: one broken rule per test, as somebody else's writer may break it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.errors import BundleError
from ddlabel.labels._privileged import read_privileged
from ddlabel.privileged._form import make_form

RECORD = StageRecord("augment-labels", {}, 0, [], {}, 0.0, 0.0, {})
FORM = make_form("convnet-d1-w8", channels=3, size=8, classes=4, layer="last", attention=None, pool="avg")
WIDTH = math.prod(FORM.shape)
VALUES = torch.rand(12, 2, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def base(files) -> Bundle:
    """12 images of 8 px, 4 classes, hard labels."""
    return Bundle.open(files.base)


def forged(base: Bundle, parts: dict[str, Tensor] | None = None, without: tuple[str, ...] = (), **changes) -> Bundle:
    """Two f32 labels of each image by the last layer of convnet-d1-w8, but for `changes` and what is left out.

    A change is of the section where it has such a field, and of its parameters otherwise.
    """
    data = base.manifest.data or {}
    parameters = {
        "arch": FORM.arch, "layer": 1, "attention": None, "pool": "avg", "shape": [8, 4, 4], "size": 8,
        "classes": list(data["classes"]), "space": dict(data["space"]), "mode": "assigned", "matcher": None,
        "lambda_reg": 0.5, "lambda_task": 0.0, "metric": "mse", "norm": "none", "ce": 0.0, "infonce": 0.0,
        "supcon": 0.0, "soft": 0.0,
    }  # fmt: skip
    section = {
        "role": "feature", "domain": "feature", "views": 2, "codec": {"name": "f32", "parameters": {}},
        "of": base.images_digest(), "teacher": ["0" * 64],
    }  # fmt: skip
    parameters |= {name: value for name, value in changes.items() if name not in section}
    section |= {name: value for name, value in changes.items() if name in section}
    parameters = {name: value for name, value in parameters.items() if name not in without}
    name = f"labels.{section['role']}"
    tensors = {f"{name}.{part}": tensor for part, tensor in ({"values": VALUES} if parts is None else parts).items()}
    return base.with_stage(RECORD, add=[NewSection(name, "labels", tensors, parameters=parameters, **section)])


def test_what_is_forged_without_a_change_is_read(base: Bundle) -> None:
    """Otherwise the others would fail for another reason."""
    assert torch.equal(VALUES.unflatten(2, FORM.shape), read_privileged(forged(base), "feature").values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [8, 4, 2]}, r"says shape \[8, 4, 2\], its net has \[8, 4, 4\]"),
        ({"shape": "8x4x4"}, "says shape 8x4x4"),
        ({"shape": None}, "says shape None"),
        ({"layer": 2}, "has no layer '2', expected 'last' or one of 1: 8 x 4 x 4"),
        ({"layer": 0}, "has no layer '0'"),
        ({"layer": "1"}, "says layer 1, its net has 1"),
        ({"layer": True}, "has no layer 'True'"),
        ({"layer": None}, "has no layer 'None'"),
        ({"arch": "convnet-d1-w16"}, "says arch convnet-d1-w16, its net has convnet-d1-w16-instance"),
        ({"arch": "convnet-d1-w16-instance"}, r"says shape \[8, 4, 4\], its net has \[16, 4, 4\]"),
        ({"arch": "../evil"}, "unknown net"),
        ({"arch": None}, "unknown net or group 'None'"),
        ({"arch": "convnet-d1-w99999999999999999999"}, "convnet"),
        ({"attention": "spatial"}, r"its net has \[1, 4, 4\]"),
        ({"attention": "spatial", "shape": [1, 4, 4]}, "says attention spatial, which is no feature"),
        ({"attention": ["channel"]}, "expected one of spatial, channel"),
        ({"pool": "sum"}, "pool is 'sum', expected one of avg, max"),
        ({"pool": "max"}, "says pool max, its net has avg"),
        ({"size": 16}, "made for images of 16 px, these have 8"),
        ({"size": None}, "made for images of None px"),
        ({"classes": ["a", "b", "c", "d"]}, "made for classes a, b, c, d, the images have"),
        ({"space": {"kind": "zca"}}, "made for space .*zca.*, the images have"),
        ({"lambda_reg": -1}, "option 'lambda_reg' is -1"),
        ({"lambda_reg": "much"}, "option 'lambda_reg' is 'much'"),
        ({"metric": "dot"}, "expected one of mse, cosine, mmd"),
        ({"mode": "found"}, "impossible mode 'found'"),
        ({"matcher": "dm"}, "matcher 'dm'"),
        ({"matcher": {}}, "matcher {}"),
        ({"lambda_task": None}, "lambda_task None"),
        ({"soft": -0.5}, "soft -0.5"),
        ({"label_aug": "vflip"}, "impossible label_aug 'vflip'"),
        ({"label_aug": ["none"]}, "impossible label_aug"),
        ({"norm": "zscore"}, "has norm 'zscore' and norm tensors none"),
        ({"domain": "logit"}, "has domain 'logit', expected 'feature'"),
        ({"codec": None}, "does not say its codec"),
        ({"of": None}, "is stale"),
        ({"of": "1" * 64}, "is stale"),
    ],
)  # fmt: skip
@pytest.mark.fault(70, 71)
def test_labels_that_say_what_cannot_be_are_refused(base: Bundle, change: dict, message: str) -> None:
    """Naming file and section, what it says and what was expected."""
    with pytest.raises(BundleError, match=rf"'labels\.feature'.*{message}"):
        read_privileged(forged(base, **change), "feature")


@pytest.mark.parametrize("name", ["arch", "layer", "shape", "size", "classes", "space", "mode", "matcher", "norm"])
def test_labels_that_do_not_say_what_they_are_of_are_refused(base: Bundle, name: str) -> None:
    """There is no default that would be safe."""
    with pytest.raises(BundleError, match=f"does not say its {name}"):
        read_privileged(forged(base, without=(name,)), "feature")


NOT_A_NUMBER = VALUES.clone()
NOT_A_NUMBER[4, 1, 17] = math.inf


@pytest.mark.parametrize(
    ("parts", "change", "message"),
    [
        ({"values": VALUES[:, :, :-1]}, {}, r"part 'values' is .* of shape \(12, 2, 127\), expected .*\(12, 2, 128\)"),
        ({"values": VALUES.double()}, {}, r"part 'values' is torch\.float64"),
        ({"codes": VALUES}, {}, "its parts are codes, expected values"),
        ({"values": NOT_A_NUMBER}, {}, r"image 4, label 1 is not finite: element \(1, 0, 1\) is inf"),
        ({"values": VALUES, "shared_norm_mean": torch.zeros(8, 4, 4)}, {}, "norm 'none' and norm tensors .*norm_mean"),
        ({"values": VALUES.half()}, {"codec": {"name": "f32", "parameters": {"bits": 3}}}, "unknown option 'bits'"),
        ({"values": VALUES.half()}, {"codec": {"name": "prune", "parameters": {"total": 2}}}, "leaves labels out"),
        ({"values": VALUES.half()}, {"codec": {"name": "root", "parameters": {}}}, "is for distributions"),
    ],
    ids=["a number short", "double", "other parts", "infinite", "a norm too many", "options", "pruned", "root"],
)
def test_parts_that_the_codec_did_not_write_are_refused(base: Bundle, parts: dict, change: dict, message: str) -> None:
    """The codec's own checks, on K labels of d numbers."""
    with pytest.raises(BundleError, match=rf"'labels\.feature'.*{message}"):
        read_privileged(forged(base, parts, **change), "feature")


@pytest.mark.parametrize("images", [11, 13])
def test_labels_for_another_number_of_images_or_labels_are_refused(base: Bundle, images: int) -> None:
    """The manifest's own rule: K is `views`."""
    with pytest.raises(BundleError, match="expected 12 images of 2 views"):
        forged(base, {"values": VALUES[:1].expand(images, -1, -1).contiguous()})
    with pytest.raises(BundleError, match="expected 12 images of 3 views"):
        forged(base, views=3)


ONES = torch.ones(8, 4, 4)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ({"mean": ONES}, "has norm 'zscore' and norm tensors labels.feature.shared_norm_mean"),
        ({"mean": ONES, "scale": ONES, "more": ONES}, "norm tensors .*shared_norm_more"),
        ({"mean": ONES[:4], "scale": ONES}, r"its norm's mean is torch\.float32 of shape \(4, 4, 4\)"),
        ({"mean": ONES, "scale": ONES.half()}, r"its norm's scale is torch\.float16"),
        ({"mean": ONES * math.nan, "scale": ONES}, "its norm's mean .* expected finite"),
        ({"mean": ONES, "scale": ONES * 0}, "its norm's scale .*above 0"),
    ],
)
def test_an_impossible_norm_is_refused(base: Bundle, norm: dict[str, Tensor], message: str) -> None:
    """It divides features in every step of every student."""
    parts = {"values": VALUES} | {f"shared_norm_{part}": tensor for part, tensor in norm.items()}
    with pytest.raises(BundleError, match=message):
        read_privileged(forged(base, parts, norm="zscore"), "feature")


def test_missing_labels_say_what_is_there_and_what_to_run(base: Bundle) -> None:
    """The file, the labels it has, the command."""
    with pytest.raises(
        BundleError, match=r"no attention labels \(labels: feature, hard\); run 'ddlabel augment-labels"
    ):
        read_privileged(forged(base), "attention")


def test_a_section_cut_off_or_edited_is_found(base: Bundle, tmp_path: Path) -> None:
    """One bit changed: its digest. The end missing: the size."""
    path = tmp_path / "f.ddset"
    forged(base).save(path)
    data = path.read_bytes()
    at = data.index(VALUES[5, 1].numpy().tobytes())
    (tmp_path / "edited.ddset").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    (tmp_path / "cut.ddset").write_bytes(data[: at + 8])

    with pytest.raises(BundleError, match=r"labels\.feature\.values.*digest mismatch"):
        read_privileged(Bundle.open(tmp_path / "edited.ddset"), "feature")
    with pytest.raises(BundleError, match=r"cut\.ddset"):
        Bundle.open(tmp_path / "cut.ddset")
    assert torch.equal(VALUES.unflatten(2, FORM.shape), read_privileged(Bundle.open(path), "feature").values)
