"""Labels that must not reach a student: one broken rule per test, written past our own writer where it would refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddlabel import _plugins
from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.codecs.f32 import CODEC as F32
from ddlabel.codecs.q8 import CODEC as Q8
from ddlabel.distilled import image_section, read_distilled
from ddlabel.errors import BundleError, DivergedError, UsageError
from ddlabel.labels._checks import Place, check_rows
from ddlabel.labels._labels import choose_kind, make_section, read_labels

RECORD = StageRecord("augment-labels", {}, 0, [], {}, 0.0, 0.0, {})
DENSE = {"grid": 3, "ratio": "1/2", "resize": "bilinear", "size": 8}


@pytest.fixture
def base(files) -> Bundle:
    """12 images of 8 px, 4 classes, hard labels."""
    return Bundle.open(files.base)


def forged(
    bundle: Bundle,
    parts: dict[str, Tensor],
    codec: str = "f32",
    role: str = "soft",
    codec_parameters: dict | None = None,
    **changes,
) -> Bundle:
    """A bundle with labels as somebody else's writer may have left them: f32 logits of 1 view, but for `changes`."""
    section = {
        "role": role,
        "domain": "logit",
        "views": 1,
        "codec": {"name": codec, "parameters": codec_parameters or {}},
        "parameters": {"size": 8},
        "of": bundle.images_digest(),
        "teacher": ["0" * 64],
    } | changes
    tensors = {f"labels.{role}.{name}": tensor for name, tensor in parts.items()}
    return bundle.with_stage(RECORD, add=[NewSection(f"labels.{role}", "labels", tensors, **section)])


def made(bundle: Bundle, values: Tensor, domain: str = "logit", codec=None) -> NewSection:
    """A section by our own writer."""
    chosen = codec or F32()
    return make_section(
        bundle, "dense", DENSE, values, domain=domain, codec_name="f32", codec=chosen, teachers=["0" * 64]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["NaN", "infinity"])
@pytest.mark.fault(63)
def test_fault_63_labels_that_are_not_finite_are_named(base: Bundle, value: float) -> None:
    """Of somebody else: exit 3, image and view."""
    values = torch.zeros(12, 1, 4)
    values[3, 0, 1] = value
    with pytest.raises(BundleError, match="image 3, view 0 is not finite: class 1"):
        read_labels(forged(base, {"values": values}), "soft")


@pytest.mark.fault(63)
def test_fault_63_teachers_that_answer_nan_are_stopped(base: Bundle) -> None:
    """Of our own making: exit 5, image and view, before anything is written."""
    values = torch.zeros(12, 9, 4)
    values[3, 4, 1] = float("nan")
    with pytest.raises(DivergedError, match=r"'labels\.dense', image 3, view 4 is not finite: class 1 has nan"):
        made(base, values)


@pytest.mark.fault(63)
def test_fault_63_images_that_are_not_finite_are_refused(base: Bundle) -> None:
    """Float images of somebody else."""
    images = torch.full((12, 3, 8, 8), float("inf"))
    broken = base.with_stage(RECORD, add=[NewSection("images", "images", {"images.pixels": images}, range="float32")])
    with pytest.raises(BundleError, match="NaN or infinity"):
        read_distilled(broken)


NO_DISTRIBUTION = {
    "too little": [0.25, 0.25, 0.25, 0.0],
    "too much": [10.0, 10.0, 10.0, 10.0],
    "negative": [1.5, -0.5, 0.0, 0.0],
    "nothing": [0.0, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("row", NO_DISTRIBUTION.values(), ids=NO_DISTRIBUTION)
@pytest.mark.parametrize("codec", ["f32", "f16"])
@pytest.mark.fault(64)
def test_fault_64_rows_that_are_no_distribution_are_named(base: Bundle, codec: str, row: list[float]) -> None:
    """Image and view, whatever the codec: renormalising hides what rounding cannot explain."""
    values = torch.full((12, 1, 4), 0.25)
    values[5, 0] = torch.tensor(row)
    stored = values.half() if codec == "f16" else values
    with pytest.raises(BundleError, match="image 5, view 0 is no distribution: sum"):
        read_labels(forged(base, {"values": stored}, codec, domain="prob"), "soft")


@pytest.mark.fault(64)
def test_fault_64_quantised_rows_without_any_mass_are_named(base: Bundle) -> None:
    """Codes and scales of 0 would divide by 0."""
    parts = {"codes": torch.zeros(12, 1, 4, dtype=torch.uint8), "scale": torch.zeros(12, 1, 2).half()}
    with pytest.raises(BundleError, match="image 0, view 0 is no distribution: sum 0"):
        read_labels(forged(base, parts, "q8", domain="prob"), "soft")


@pytest.mark.fault(64)
def test_fault_64_a_coarse_codec_may_not_lose_the_whole_row() -> None:
    """A bound of 0.5 per value explains any sum, but nothing can be divided by 0."""
    place, coarse = Place("a.ddset", "labels.soft"), torch.full((1, 1), 0.5)
    check_rows(place, torch.tensor([[[1.0, 1.0, 0.0]]]), "prob", coarse)
    with pytest.raises(BundleError, match=r"a\.ddset: 'labels\.soft', image 0, view 0 is no distribution: sum 0"):
        check_rows(place, torch.zeros(1, 1, 3), "prob", coarse)


@pytest.mark.fault(64)
def test_fault_64_rows_that_are_no_distribution_are_not_written(base: Bundle) -> None:
    """The same rule both ways."""
    with pytest.raises(BundleError, match="image 0, view 0 is no distribution: sum 2"):
        made(base, torch.full((12, 9, 4), 0.5), "prob")


@pytest.mark.fault(64)
def test_fault_64_refined_labels_have_length_one(base: Bundle) -> None:
    """What `unit` means."""
    with pytest.raises(BundleError, match="image 0, view 0 is no refined label: length 6"):
        read_labels(forged(base, {"values": torch.full((12, 1, 4), 3.0)}, domain="unit"), "soft")


@pytest.mark.parametrize("label", [4, 255], ids=["one too high", "far too high"])
@pytest.mark.fault(65)
def test_fault_65_hard_labels_outside_the_classes_are_named(base: Bundle, label: int) -> None:
    """Image and value."""
    labels = base.tensor("labels.hard")
    labels[7] = label
    broken = base.with_stage(
        RECORD, add=[NewSection("labels.hard", "labels", {"labels.hard": labels}, role="hard", views=1)]
    )
    with pytest.raises(BundleError, match=f"image 7 class {label}, expected 0 to 3"):
        read_distilled(broken)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(12), "is torch.float32 of shape"),
        (torch.zeros(12, dtype=torch.bool), "is torch.bool of shape"),
        (torch.zeros(12, 1, dtype=torch.uint8), r"of shape \(12, 1\), expected one whole number"),
        (torch.full((12,), -1), "image 0 class -1, expected 0 to 3"),
    ],
    ids=["fractions", "truth values", "rows", "negative"],
)
@pytest.mark.fault(65)
def test_hard_labels_that_are_no_class_numbers(base: Bundle, labels: Tensor, said: str) -> None:
    """Never rounded, never squeezed."""
    section = NewSection("labels.hard", "labels", {"labels.hard": labels}, role="hard", views=1)
    with pytest.raises(BundleError, match=said):
        read_distilled(base.with_stage(RECORD, add=[section]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool, torch.float8_e5m2], ids=str)
@pytest.mark.fault(63)
def test_images_of_another_dtype_are_refused(base: Bundle, dtype: torch.dtype) -> None:
    """uint8 pixels or float32 images, and nothing that would have to be guessed at."""
    images = base.tensor("images.pixels").to(dtype)
    broken = base.with_stage(RECORD, add=[NewSection("images", "images", {"images.pixels": images}, range="float32")])
    with pytest.raises(BundleError, match="expected uint8 or float32"):
        read_distilled(broken)


@pytest.mark.parametrize("shape", [(11, 1, 4), (13, 1, 4), (12, 2, 4)], ids=["too few", "too many", "more views"])
@pytest.mark.fault(66)
def test_fault_66_labels_for_another_number_of_images_or_views(base: Bundle, shape: tuple[int, ...]) -> None:
    """Both counts named."""
    with pytest.raises(BundleError, match="expected 12 images of 1 views"):
        forged(base, {"values": torch.zeros(*shape)})


@pytest.mark.fault(66)
def test_fault_66_views_that_the_parameters_do_not_make(base: Bundle) -> None:
    """Both numbers named: otherwise view 5 would carry the label of another window."""
    dense = forged(base, {"values": torch.zeros(12, 9, 4)}, role="dense", views=9, parameters=DENSE | {"grid": 2})
    with pytest.raises(BundleError, match="has 9 views, its parameters make 4"):
        read_labels(dense, "dense")
    with pytest.raises(BundleError, match="has 2 views, its parameters make 1"):
        read_labels(forged(base, {"values": torch.zeros(12, 2, 4)}, views=2), "soft")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": "7"}, r"expected a fraction P/Q in \(0, 1\]"),
        ({"ratio": "0/1"}, r"expected a fraction P/Q in \(0, 1\]"),
        ({"ratio": 5}, r"expected a fraction P/Q in \(0, 1\]"),
        ({"grid": -3}, "option 'grid' is -3"),
        ({"grid": "3"}, "made with 'grid' '3', this ddlabel makes 3"),
        ({"grid": [3]}, "made with 'grid' \\[3\\], this ddlabel makes 3"),
        ({"grid": None}, "option 'grid' is 'None', expected a whole number"),
        ({"resize": "bicubic"}, "made with 'resize' 'bicubic', this ddlabel makes 'bilinear'"),
        ({"size": None}, "made for images of None px"),
        ({"size": 16}, "made for images of 16 px, these have 8"),
    ],
)
@pytest.mark.fault(67)
def test_fault_67_windows_that_cannot_be_made_again(base: Bundle, change: dict, message: str) -> None:
    """Parameters of somebody else go through the same checks as a command line, and must make the same views."""
    dense = forged(base, {"values": torch.zeros(12, 9, 4)}, role="dense", views=9, parameters=DENSE | change)
    with pytest.raises(BundleError, match=f"'labels.dense'.* {message}.*augment-labels"):
        read_labels(dense, "dense")


@pytest.mark.parametrize("name", ["f32", "f16", "q8"])
@pytest.mark.fault(68)
def test_fault_68_codec_parameters_that_the_codec_does_not_take(base: Bundle, name: str) -> None:
    """Named, exit 3."""
    broken = forged(base, {"values": torch.zeros(12, 1, 4)}, name, codec_parameters={"clip": 0})
    with pytest.raises(BundleError, match=r"'labels\.soft' was written with impossible options: unknown option 'clip'"):
        read_labels(broken, "soft")


IMPOSSIBLE = [
    ("topk-ms", {"k": 5}, "k is 5 for labels of 4 classes, expected k from 1 to 3"),
    ("topk-mr", {"k": 4}, "k is 4 for labels of 4 classes"),
    ("topk-min", {"k": 0}, "option 'k' is 0"),
    ("topk-min", {"bits": 0}, "option 'bits' is 0"),
    ("topk-mr", {"bits": 9}, "option 'bits' is 9"),
    ("delta-view", {"coverage": 0}, "option 'coverage' is 0"),
    ("vq", {"groups": 5}, "groups is 5 for labels of 4 classes"),
    ("vq", {"entries": 257}, "option 'entries' is 257"),
    ("lowrank", {"rank": 2}, "rank is 2 for labels of 1 views"),
    ("klt", {"step": 0}, "option 'step' is 0"),
    ("root", {"step": "x"}, "option 'step' is 'x'"),
    ("q4", {"clip": -1}, "option 'clip' is -1"),
    ("prune", {"keep": 1.5, "total": 1}, "option 'keep' is 1.5"),
]


@pytest.mark.fault(68)
@pytest.mark.parametrize(("name", "options", "message"), IMPOSSIBLE)
def test_codec_parameters_out_of_range(base: Bundle, name: str, options: dict, message: str) -> None:
    """Of a file: exit 3, naming file and section, whatever the parts are."""
    codec = _plugins.load("codecs", name, "CODEC")().bind(1)
    broken = forged(base, codec.encode(torch.zeros(12, 1, 4)), name, codec_parameters=options)
    with pytest.raises(BundleError, match=rf"base\.ddset: 'labels\.soft'.*{message}") as caught:
        read_labels(broken, "soft")
    assert "labels.soft" == caught.value.field


@pytest.mark.fault(68)
@pytest.mark.parametrize("words", [["k=4"], ["k=3", "bits=0"], ["k=0"], ["k=x"]], ids=" ".join)
def test_codec_options_out_of_range(run_cli, files, tmp_path, words: list[str]) -> None:
    """Of a user: exit 2, no output."""
    sets = [word for setting in words for word in ("--set", setting)]
    labels = ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "soft", "--codec", "topk-ms")
    outcome = run_cli(*labels, *sets, "-o", tmp_path / "x.ddset")

    assert 2 == outcome.code, outcome.err
    assert words[-1].partition("=")[0] in outcome.err
    assert not (tmp_path / "x.ddset").exists()


@pytest.mark.fault(69)
def test_parts_of_dtypes_that_numpy_lacks(base: Bundle) -> None:
    """bfloat16 where a codec expects whole numbers."""
    parts = _plugins.load("codecs", "klt", "CODEC")().encode(torch.zeros(12, 1, 4))
    broken = forged(base, parts | {"image_plain": parts["image_plain"].bfloat16()}, "klt")
    with pytest.raises(BundleError, match="does not hold what codec 'klt' wrote: part 'image_plain'"):
        read_labels(broken, "soft")


BYTES, HALVES = torch.zeros(12, 1, 4, dtype=torch.uint8), torch.zeros(12, 1, 2).half()
FOREIGN_PARTS = [
    ("f32", {"foo": torch.zeros(12, 1, 4)}, "its parts are foo, expected values"),
    ("f32", {"values": torch.zeros(12, 1, 4), "more": torch.zeros(12, 1, 4)}, "its parts are more, values"),
    ("f32", {"values": torch.zeros(12, 1, 4).long()}, "part 'values' is torch.int64"),
    ("f32", {"values": torch.zeros(12, 1, 2, 2)}, "of shape \\(12, 1, 2, 2\\), expected .*\\(12, 1, 4\\)"),
    ("f32", {"values": torch.zeros(12, 1)}, "of shape \\(12, 1\\)"),
    ("q8", {"codes": BYTES}, "its parts are codes, expected codes, scale"),
    ("q8", {"codes": BYTES.float(), "scale": HALVES}, "part 'codes' is torch.float32"),
    ("q8", {"codes": BYTES, "scale": HALVES[..., :1]}, "part 'scale'"),
    ("q8", {"codes": BYTES, "scale": HALVES - 1}, "a scale is not finite or negative"),
]


@pytest.mark.parametrize(("codec", "parts", "message"), FOREIGN_PARTS)
@pytest.mark.fault(69)
def test_fault_69_parts_that_the_codec_did_not_write(
    base: Bundle, codec: str, parts: dict[str, Tensor], message: str
) -> None:
    """File, section and part named."""
    with pytest.raises(BundleError, match=f"'labels.soft' does not hold what codec '{codec}' wrote: .*{message}"):
        read_labels(forged(base, parts, codec), "soft")


def test_labels_of_other_classes_are_refused_when_written_and_when_read(base: Bundle) -> None:
    """Both sides named."""
    with pytest.raises(BundleError, match="has 5 classes, the data has 4"):
        made(base, torch.zeros(12, 9, 5))
    with pytest.raises(BundleError, match=r"of shape \(12, 1, 5\), expected .*\(12, 1, 4\)"):
        read_labels(forged(base, {"values": torch.zeros(12, 1, 5)}), "soft")


def test_labels_beyond_a_codec_are_refused_with_one_that_holds_them(base: Bundle) -> None:
    """float16 ends at 65,504."""
    with pytest.raises(UsageError, match="use --codec f32"):
        made(base, torch.full((12, 9, 4), 70_000.0), codec=Q8())


def test_missing_labels_say_what_is_there_and_what_to_run(base: Bundle) -> None:
    """The file, the labels it has, the command."""
    with pytest.raises(
        BundleError, match=r"no dense labels \(labels: hard\); run 'ddlabel augment-labels .* --kind dense"
    ):
        read_labels(base, "dense")


def test_labels_of_replaced_images_are_stale_and_not_chosen(base: Bundle) -> None:
    """They are of other pictures; hard labels still hold."""
    labelled = forged(base, {"values": torch.zeros(12, 1, 4)})
    other = image_section(255 - base.tensor("images.pixels"), read_distilled(base).space)
    changed = labelled.with_stage(RECORD, add=[other])

    assert ("soft", "hard") == (choose_kind(labelled), choose_kind(changed))
    with pytest.raises(BundleError, match=r"'labels\.soft' is stale.*; run 'ddlabel augment-labels' again"):
        read_labels(changed, "soft")


def test_labels_that_do_not_say_whose_they_are_count_as_stale(base: Bundle) -> None:
    """Without the digest of their images nothing ties them to these."""
    with pytest.raises(BundleError, match="stale"):
        read_labels(forged(base, {"values": torch.zeros(12, 1, 4)}, of=None), "soft")


@pytest.mark.parametrize(
    ("parameters", "views", "message"),
    [
        ({"keep": 0.34, "total": 9}, 2, "codec 'prune' keeps 3 of 9 views, here are 2"),
        ({"keep": 0.25, "total": 12}, 3, "has 12 views, its parameters make 9"),
        ({"keep": 1e-9, "total": 2**31}, 2, "has 2147483648 views, its parameters make 9"),
        ({"keep": 0.34}, 3, "codec 'prune' keeps 1 of None views, here are 3"),
        ({"keep": 0.34, "total": 9, "values": "prune"}, 3, "option 'values' is 'prune'"),
        ({"keep": 0.34, "total": 9, "values": "q1"}, 3, "unknown codec 'q1'"),
    ],
)
@pytest.mark.fault(66)
def test_fault_66_pruned_labels_of_other_views(base: Bundle, parameters: dict, views: int, message: str) -> None:
    """What is kept follows from the parameters, so they must fit what is there; without drawing two billion views."""
    values = {"values": torch.zeros(12, views, 4).half()}
    dense = forged(base, values, "prune", "dense", parameters, views=views, parameters=DENSE)
    with pytest.raises(BundleError, match=message):
        read_labels(dense, "dense")


def test_shared_parts_may_have_any_shape_and_parts_of_images_have_no_views(base: Bundle) -> None:
    """And nothing else is let off."""
    parts = {"codes": BYTES, "shared_codebook": torch.zeros(3, 2), "image_scale": torch.zeros(12, 2)}
    forged(base, parts)
    for name, shape in (("image_scale", (11, 2)), ("codes", (12, 2, 4)), ("sharing", (3, 2))):
        with pytest.raises(BundleError, match=f"labels.soft.{name}.*expected 12 images of 1 views"):
            forged(base, parts | {name: torch.zeros(shape)})
