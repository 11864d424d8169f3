"""fkd views against crops, boxes and mixtures made by hand; the seeded and the stored replay; bundles of others."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ddlabel import seeding
from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.codecs.f16 import CODEC as F16
from ddlabel.codecs.f32 import CODEC as F32
from ddlabel.distilled import read_distilled
from ddlabel.errors import BundleError, UsageError
from ddlabel.labels._draws import Seeded
from ddlabel.labels._labels import LabelSet, available_kinds, load_kind, make_section, read_labels
from ddlabel.labels.fkd import KIND as Fkd
from ddlabel.options import build
from ddlabel.students import StudentData, make_sampler
from ddlabel.teachers import Teacher

RECORD = StageRecord("augment-labels", {}, 0, [], {}, 0.0, 0.0, {})
MIXES = ("none", "cutmix", "mixup")
STREAM = "00000000075bcd15"


def pictures(count: int = 6, side: int = 12) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def by_hand(images: Tensor, kind: Fkd, image: int, view: int) -> Tensor:
    """One view from the draws: slices, torch's own resizing, loops over pixels."""
    side, alpha = images.shape[-1], 0.8 if kind.mix == "mixup" else 1.0
    draws = Seeded(int(kind.stream, 16), len(images), side, Fraction("0.08"), kind.flip, str(alpha))

    def crop(index: int) -> Tensor:
        (places, flips) = draws.crops(torch.tensor([index]), torch.tensor([view]))
        top, left, tall, wide = places[0].tolist()
        part = images[index : index + 1, :, top : top + tall, left : left + wide]
        made = functional.interpolate(part, size=(side, side), mode="bilinear", align_corners=False)[0]
        return made.flip(2) if bool(flips[0]) else made

    own, pair = crop(image), (torch.tensor([image]), torch.tensor([view]))
    if kind.mix == "none":
        return own
    other = crop(int(draws.partners(*pair)))
    if kind.mix == "mixup":
        share = int(draws.weights(*pair)) / 2**16
        return share * own + (1 - share) * other
    top, left, tall, wide = draws.boxes(*pair)[0].tolist()
    mixed = own.clone()
    for row in range(top, top + tall):
        for column in range(left, left + wide):
            mixed[:, row, column] = other[:, row, column]
    return mixed


@pytest.mark.parametrize("mix", MIXES)
def test_views_are_crops_mixed_with_the_partners_own_view(all_views: Callable[..., Tensor], mix: str) -> None:
    """Every pixel of every view; a partner has its own crop and flip of the same number."""
    images, kind = pictures().double(), Fkd(mix=mix, views=9, stream=STREAM)
    expected = torch.stack(
        [torch.stack([by_hand(images, kind, image, view) for view in range(9)]) for image in range(6)]
    )

    torch.testing.assert_close(all_views(kind, images), expected, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_view_does_not_depend_on_its_batch(data: st.DataObject) -> None:
    """Order, batch size and repetition: the same bits."""
    images = pictures()
    kind = Fkd(mix=data.draw(st.sampled_from(MIXES)), views=1000, stream=f"{data.draw(st.integers(0, 2**64 - 1)):016x}")
    chosen = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 999)), min_size=1, max_size=9)
    image, view = torch.tensor(data.draw(chosen)).unbind(1)
    together = kind.view(images, image, view)
    size = data.draw(st.integers(1, 9))
    parts = [kind.view(images, *pair) for pair in zip(image.split(size), view.split(size), strict=True)]

    assert torch.equal(together, torch.cat(parts))


def test_the_stream_follows_the_seed_and_flips_the_data() -> None:
    """Of two seeds, two streams; one given is kept; digits are not mirrored; a is the mix's."""
    made = Fkd().bound(seed=7, flip=False)
    other = Fkd(mix="mixup", flip=False).bound(seed=8, flip=True)

    assert f"{seeding.stream_seed(7, 'fkd'):016x}" == made.stream
    assert made.stream != other.stream
    assert STREAM == Fkd(stream=STREAM).bound(seed=7, flip=True).stream
    assert (False, False, True) == (made.flip, other.flip, Fkd().bound(seed=7, flip=True).flip)
    assert (1.0, 0.8, 2.0) == (made.alpha, other.alpha, Fkd(alpha=2.0).bound(seed=0, flip=True).alpha)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "12"}, "'stream' is '12', expected 16 hexadecimal digits"),
        ({"stream": "0X000000000000ff"}, "expected 16 hexadecimal digits"),
        ({"scale_min": "0"}, "'scale_min' is '0', expected a fraction"),
        ({"scale_min": "1e-400000000"}, "expected a fraction"),
        ({"scale_min": "1.5"}, "expected a fraction"),
        ({"scale_min": "1/0"}, "expected a fraction"),
        ({"mix": "cutout"}, "'mix' is 'cutout', expected one of none, cutmix, mixup"),
        ({"views": "0"}, "'views' is 0, expected a number >= 1"),
        ({"alpha": "0"}, "'alpha' is 0.0, expected a number >= 0.1"),
        ({"replay": "both"}, "'replay' is 'both', expected one of seeded, explicit"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, str], message: str) -> None:
    """Before any view is made."""
    with pytest.raises(UsageError, match=message):
        build(Fkd, options).bound(seed=0, flip=True).parameters(32)


@pytest.mark.parametrize("shape", [(2, 3, 8, 16), (2, 3, 16, 8)], ids=["wide", "tall"])
def test_images_that_are_not_square_are_refused(shape: tuple[int, ...]) -> None:
    """Height and width named."""
    with pytest.raises(UsageError, match=f"these have {shape[2]} x {shape[3]} px"):
        Fkd(stream=STREAM).view(torch.zeros(*shape), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(UsageError, match="images of 1 to 4096 px, these have 4097"):
        Fkd(stream=STREAM).parameters(4097)


@pytest.mark.parametrize("mix", MIXES)
def test_stored_draws_make_the_views_of_the_seed(all_views: Callable[..., Tensor], mix: str) -> None:
    """In the smallest whole numbers, through checks and back: the same bits."""
    images = pictures()
    seeded, explicit = (Fkd(mix=mix, views=7, stream=STREAM, replay=replay) for replay in ("seeded", "explicit"))
    stored = explicit.augmentation(6, 12)
    replayed = dataclasses.replace(explicit, stream="auto").replaying(stored, 12)

    assert {} == seeded.augmentation(6, 12)
    assert torch.equal(all_views(seeded, images), all_views(replayed, images))
    assert explicit.parameters(12) == replayed.parameters(12)
    assert not {"stream", "alpha"} & set(explicit.parameters(12))


@pytest.mark.parametrize(
    ("images", "side", "types"), [(300, 255, ("uint16", "uint8")), (256, 256, ("uint8", "uint16"))]
)
def test_stored_draws_take_the_smallest_type(images: int, side: int, types: tuple[str, str]) -> None:
    """Partners by the number of images, crops and boxes by the side."""
    stored = Fkd(views=2, stream=STREAM, replay="explicit").augmentation(images, side)

    assert types == tuple(str(stored[name].dtype).removeprefix("torch.") for name in ("partner", "crop"))
    assert stored["box"].dtype == stored["crop"].dtype
    assert (images, 2, 4) == tuple(stored["crop"].shape)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The tiny bundle with fkd labels of 8 views, both ways."""

    seeded: Path
    explicit: Path


@pytest.fixture(scope="module")
def labelled(files, run_cli, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    folder = tmp_path_factory.mktemp("fkd")
    made = Labelled(folder / "seeded.ddset", folder / "explicit.ddset")
    for replay, path in (("seeded", made.seeded), ("explicit", made.explicit)):
        outcome = run_cli(
            "augment-labels", files.base, "--teacher", files.teacher, "--kind", "fkd", "--codec", "f16", "--seed", "5",
            "--set", "views=8", "--set", f"replay={replay}", "-o", path,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    return made


def test_labels_are_the_teachers_logits_of_the_mixed_views(all_views: Callable[..., Tensor], files, labelled) -> None:
    """Never a mixture of labels; within what f16 rounds."""
    bundle, teacher = Bundle.open(labelled.seeded), Teacher(Bundle.open(files.teacher))
    labels, distilled = read_labels(bundle, "fkd"), read_distilled(bundle)
    with torch.inference_mode():
        views = all_views(load_kind(labels), distilled.images).flatten(0, 1)
        expected = teacher.net(teacher.select("last")[0])(views)

    torch.testing.assert_close(labels.values.flatten(0, 1), expected, rtol=2e-3, atol=1e-3)
    assert (12, 8, 4) == tuple(labels.values.shape)
    own = {key: value for key, value in labels.parameters.items() if key not in {"classes", "space"}}
    assert {
        "views": 8, "mix": "cutmix", "scale_min": "0.08", "alpha": 1.0, "flip": True, "replay": "seeded",
        "stream": f"{seeding.stream_seed(5, 'fkd'):016x}", "resize": "bilinear", "size": 8,
    } == own  # fmt: skip
    assert ["fkd", "hard"] == available_kinds(bundle)


def epochs(bundle: Path, batch: int, count: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images, soft and hard labels of some epochs, as a student sees them."""
    opened = Bundle.open(bundle)
    data = StudentData(read_distilled(opened), read_labels(opened, "fkd"))
    sampler = make_sampler(data, batch=batch, estimator="views", seed=0)
    made = []
    for epoch in range(count):
        batches = list(sampler(epoch, seeding.generator(0, "epoch", epoch)))
        images, targets = zip(*batches, strict=True)
        soft, hard = (torch.cat([getattr(each, name) for each in targets]) for name in ("soft", "hard"))
        made.append((torch.cat(images), soft, hard))
    return made


def test_seeded_and_stored_replay_train_alike_and_cost_what_inspect_says(run_cli, labelled: Labelled) -> None:
    """The same images and labels in every epoch; stored draws are bytes of augmentation, a seed is none."""
    for left, right in zip(epochs(labelled.seeded, 5), epochs(labelled.explicit, 5), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
    document = json.loads(run_cli("inspect", labelled.seeded, labelled.explicit, "--json").out)
    seeded, explicit = (each["manifest"]["storage"] for each in document["bundles"])
    stored = sum(
        record["bytes"]
        for name, record in Bundle.open(labelled.explicit).section("labels.fkd").tensors.items()
        if name.startswith("labels.fkd.augmentation.")
    )

    assert (0, stored) == (seeded["augmentation_state"], explicit["augmentation_state"])
    assert stored > 0
    assert explicit["labels"]["fkd"]["stored"] == seeded["labels"]["fkd"]["stored"] + stored


def test_students_see_the_same_samples_whatever_the_batch(labelled: Labelled) -> None:
    """Batches of 1, 5 or all 12: the same images with the same labels."""
    whole, single, five = (epochs(labelled.seeded, batch) for batch in (12, 1, 5))

    assert all(
        torch.equal(one, other)
        for cut in (single, five)
        for left, right in zip(whole, cut, strict=True)
        for one, other in zip(left, right, strict=True)
    )


def test_an_epoch_is_one_view_of_every_image_in_turn(labelled: Labelled, all_views: Callable[..., Tensor]) -> None:
    """View e mod v in epoch e, with its label and the class of the first image."""
    bundle = Bundle.open(labelled.seeded)
    labels, distilled = read_labels(bundle, "fkd"), read_distilled(bundle)
    views = all_views(load_kind(labels), distilled.images)
    for epoch, (images, soft, hard) in enumerate(epochs(labelled.seeded, 5, count=10)):
        order = torch.randperm(12, generator=seeding.generator(0, "epoch", epoch))

        assert torch.equal(views[order, epoch % 8], images)
        assert torch.equal(labels.values[order, epoch % 8], soft)
        assert torch.equal(distilled.labels[order], hard)


@dataclasses.dataclass(frozen=True)
class Pruned(LabelSet):
    """Labels of which some views are left."""

    view_ids: Tensor | None = None


@pytest.mark.parametrize("estimator", ["views", "pool", "full"])
def test_pruned_labels_are_seen_with_the_views_they_are_of(
    labelled: Labelled, all_views: Callable[..., Tensor], estimator: str
) -> None:
    """Three of eight views of each image, others for each image."""
    bundle = Bundle.open(labelled.seeded)
    labels, distilled = read_labels(bundle, "fkd"), read_distilled(bundle)
    views = all_views(load_kind(labels), distilled.images)
    kept = torch.stack([torch.randperm(8)[:3].sort().values for _image in range(12)])
    own = {field.name: getattr(labels, field.name) for field in dataclasses.fields(LabelSet)}
    values = labels.values.gather(1, kept[:, :, None].expand(-1, -1, 4))
    pruned = Pruned(**{**own, "values": values, "view_ids": kept.to(torch.uint8)})
    sampler = make_sampler(StudentData(distilled, pruned), batch=7, estimator=estimator, seed=0)
    seen = set()
    for epoch in range(4):
        for images, targets in sampler(epoch, seeding.generator(0, "epoch", epoch)):
            for picture, soft, local in zip(images, targets.soft, targets.local, strict=True):
                if local:
                    image, view = next(iter((views == picture).flatten(2).all(dim=2).nonzero().tolist()))
                    assert view in kept[image].tolist()
                    assert torch.equal(labels.values[image, view], soft)
                    seen.add((image, view))

    assert len(seen) == 36 if estimator != "pool" else len(seen) >= 20


def test_evaluate_trains_on_fkd_labels_beside_random_images(run_cli, files, labelled: Labelled, tmp_path: Path) -> None:
    """The protocol of SRe2L, random images labelled the same way; seeded and stored draws give the same score."""
    scores = []
    for path in (labelled.seeded, labelled.explicit):
        outcome = run_cli(
            "evaluate", path, "--data", files.data, "--teacher", files.teacher, "--arch", "convnet-d1-w8", "--seeds",
            "2", "--epochs", "6", "--loss", "kl_t2", "--protocol", "fkd", "--baselines", "-o", tmp_path / path.name,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        (record,) = Bundle.open(tmp_path / path.name).manifest.evaluations
        scores.append([row["accuracy"]["values"] for row in record["results"]])
        assert "fkd" == record["labels"]
        assert 6 * 12 == record["results"][0]["samples_seen"]

    assert scores[0] == scores[1]
    assert 3 == len(scores[0])


def test_digits_are_not_mirrored(run_cli, tmp_path: Path) -> None:
    """What the data record says, on the way from `distill` to the parameters."""
    teacher, base, path = (tmp_path / f"{name}.ddset" for name in ("teacher", "base", "labels"))
    common = ("--data", "digits", "--arch", "mlp")
    small = (*common, "--size", "8")
    outcomes = [
        run_cli("train-teacher", *small, "--epochs", "1", "-o", teacher),
        run_cli("distill", *small, "--method", "random", "--ipc", "1", "-o", base),
        run_cli(
            "augment-labels",
            base,
            "--teacher",
            teacher,
            "--kind",
            "fkd",
            "--set",
            "views=3",
            "--self-test",
            "0",
            "-o",
            path,
        ),
        run_cli("evaluate", path, *common, "--seeds", "1", "--epochs", "2", "--loss", "kl_t2", "--protocol", "rded"),
    ]

    assert [0] * 4 == [outcome.code for outcome in outcomes], [outcome.err for outcome in outcomes]
    assert not read_labels(Bundle.open(path), "fkd").parameters["flip"]


def forged(labelled: Labelled, *, parameters: dict | None = None, **draws: Tensor | None) -> Bundle:
    """The bundle of stored draws with some of them changed; None leaves one out."""
    bundle = Bundle.open(labelled.explicit)
    section, prefix = bundle.section("labels.fkd"), "labels.fkd.augmentation."
    tensors = {name: bundle.tensor(name) for name in section.tensors}
    tensors |= {f"{prefix}{name}": tensor for name, tensor in draws.items()}
    new = NewSection(
        "labels.fkd", "labels", {name: tensor for name, tensor in tensors.items() if tensor is not None}, role="fkd",
        domain="logit", views=8, codec={"name": "f16", "parameters": {}}, of=bundle.images_digest(),
        parameters={**section.parameters, **(parameters or {})}, teacher=["0" * 64],
    )  # fmt: skip
    return bundle.with_stage(RECORD, add=[new])


def changed(labelled: Labelled, name: str, value: list[int] | int) -> Tensor:
    """Stored draws with another value for image 3, view 2."""
    tensor = Bundle.open(labelled.explicit).tensor(f"labels.fkd.augmentation.{name}").clone()
    tensor[3, 2] = torch.tensor(value, dtype=tensor.dtype)
    return tensor


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("crop", [1, 0, 8, 8], r"crop of image 3, view 2 is \[1, 0, 8, 8\] .* does not lie inside 8 x 8 px"),
        ("crop", [0, 0, 0, 8], "crop of image 3, view 2"),
        ("crop", [255, 0, 255, 2], "crop of image 3, view 2"),
        ("box", [0, 7, 2, 2], "box of image 3, view 2"),
        ("box", [9, 0, 0, 0], "box of image 3, view 2"),
        ("partner", 12, "partner of image 3, view 2 is 12, expected 0 to 11"),
        ("flip", 2, "flip of image 3, view 2 is 2, expected 0 to 1"),
    ],
)
def test_stored_draws_outside_the_images_are_named(labelled, name: str, value: list[int] | int, message: str) -> None:
    """File, section, image and view; an empty box at the border is none of them."""
    with pytest.raises(BundleError, match=f"'labels.fkd': its stored {message}"):
        read_labels(forged(labelled, **{name: changed(labelled, name, value)}), "fkd")
    read_labels(forged(labelled, box=changed(labelled, "box", [8, 8, 0, 0])), "fkd")


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ({"flip": None}, "its stored draws are box, crop, partner, expected box, crop, flip, partner"),
        ({"more": torch.zeros(12, 8)}, "its stored draws are box, crop, flip, more, partner"),
        ({"crop": torch.ones(12, 8, 4)}, "its stored 'crop' is torch.float32"),
        ({"crop": torch.ones(12, 8, 3).byte()}, r"of shape \(12, 8, 3\), expected whole numbers of shape \(12, 8, 4\)"),
        ({"flip": torch.ones(12, 8, 1).byte()}, r"'flip' is torch.uint8 of shape \(12, 8, 1\)"),
        ({"partner": torch.full((12, 8), -1)}, "partner of image 0, view 0 is -1"),
        ({"crop": torch.full((12, 8, 4), 2**62)}, "crop of image 0, view 0"),
    ],
)
def test_foreign_draws_are_refused(labelled: Labelled, draws: dict, message: str) -> None:
    """Missing, unknown, of another type or shape."""
    with pytest.raises(BundleError, match=f"'labels.fkd': .*{message}.*run 'ddlabel augment-labels' again"):
        read_labels(forged(labelled, **draws), "fkd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replay": "seeded"}, "option 'stream' is 'auto', expected 16 hexadecimal digits"),
        ({"replay": "seeded", "stream": STREAM}, "made with 'scale_min' None, this ddlabel makes '0.08'"),
        ({"mix": "mixup"}, "its stored draws are box, crop, flip, partner, expected crop, flip, partner, weight"),
        ({"mix": "blend"}, "written with impossible options: option 'mix' is 'blend'"),
        ({"views": 9}, "has 8 views, its parameters make 9"),
        ({"resize": "bicubic"}, "made with 'resize' 'bicubic'"),
        ({"size": 16}, "made for images of 16 px, these have 8"),
    ],
)
def test_parameters_that_do_not_make_these_views_are_refused(labelled: Labelled, change: dict, message: str) -> None:
    """As for every kind."""
    with pytest.raises(BundleError, match=f"'labels.fkd'.*{message}"):
        read_labels(forged(labelled, parameters=change), "fkd")


def test_a_seeded_section_with_stored_draws_is_refused(labelled: Labelled) -> None:
    """Two answers to one question."""
    seeded = dict(read_labels(Bundle.open(labelled.seeded), "fkd").parameters)
    with pytest.raises(BundleError, match=r"stored draws \(box, crop, flip, partner\), which this kind does not have"):
        read_labels(forged(labelled, parameters=seeded), "fkd")


def test_draws_cost_what_they_should() -> None:
    """10 bytes a view at 32 px before compression: 4 crop, 1 flip, 1 partner, 4 box."""
    stored = Fkd(views=30, stream=STREAM, replay="explicit").augmentation(20, 32)

    assert 10 * 600 == sum(tensor.numel() * tensor.element_size() for tensor in stored.values())


def test_labels_made_in_python_are_read_back(files) -> None:
    """`make_section` with draws, through the file's checks."""
    bundle, kind = Bundle.open(files.base), Fkd(views=2, mix="mixup", stream=STREAM, replay="explicit")
    values = torch.randn(12, 2, 4)
    for name, codec in (("f32", F32()), ("f16", F16())):
        section = make_section(
            bundle, "fkd", kind.parameters(8), values, domain="logit", codec_name=name, codec=codec,
            teachers=["0" * 64], augmentation=kind.augmentation(12, 8),
        )  # fmt: skip
        labels = read_labels(bundle.with_stage(RECORD, add=[section]), "fkd")

        assert {"crop", "flip", "partner", "weight"} == set(labels.augmentation)
        assert float((labels.values - values).abs().max()) < 4e-3
        assert math.isfinite(float(load_kind(labels).view(pictures(12, 8), torch.tensor([3]), torch.tensor([1])).sum()))
