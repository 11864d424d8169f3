"""Which samples students see: the estimators of LADD's loss against exhaustive counting."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from ddlabel import seeding
from ddlabel.bundle import Bundle
from ddlabel.distilled import read_distilled
from ddlabel.labels._labels import load_kind, read_labels
from ddlabel.labels._privileged import PrivilegedSet
from ddlabel.privileged._form import Form
from ddlabel.students import StudentData, make_sampler


@pytest.fixture
def data(files) -> StudentData:
    bundle = Bundle.open(files.dense)
    return StudentData(read_distilled(bundle), read_labels(bundle, "dense"))


def epoch(sampler, index: int):
    return list(sampler(index, seeding.generator(0, "epoch", index)))


def test_single_view_students_see_every_image_once_per_epoch(files) -> None:
    """With the label of that image."""
    bundle = Bundle.open(files.soft)
    distilled, labels = read_distilled(bundle), read_labels(bundle, "soft")
    batches = epoch(make_sampler(StudentData(distilled, labels), batch=5, estimator="views", seed=0), 0)
    seen = torch.cat([targets.soft for _images, targets in batches])

    assert [5, 5, 2] == [len(images) for images, _targets in batches]
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, labels.values[:, 0].tolist()))


def test_pool_visits_every_pair_once_before_any_pair_twice(data: StudentData) -> None:
    """m (1 + v) pairs in 1 + v epochs of m samples: the mean of its losses is Eq. 5 / (1 + v)."""
    sampler = make_sampler(data, batch=5, estimator="pool", seed=3)
    views, images = data.labels.values.shape[1], len(data.distilled.labels)
    seen: Counter = Counter()
    for index in range(1 + views):
        batches = epoch(sampler, index)
        assert images == sum(len(batch) for batch, _targets in batches)
        for pictures, targets in batches:
            for picture, local in zip(pictures, targets.local, strict=True):
                seen[(picture.numpy().tobytes(), bool(local))] += 1

    assert images * (1 + views) == sum(seen.values())
    assert images == sum(count for (_picture, local), count in seen.items() if not local)
    assert 1 == max(seen.values())


def test_views_are_materialised_with_their_own_labels(all_views, data: StudentData) -> None:
    """A local sample is the window its label was made of."""
    kind = load_kind(data.labels)
    everything = all_views(kind, data.distilled.images)
    for pictures, targets in epoch(make_sampler(data, batch=6, estimator="views", seed=1), 0):
        for picture, soft, local in zip(pictures, targets.soft, targets.local, strict=True):
            matches = (everything == picture).flatten(2).all(dim=2).nonzero()
            assert local
            assert any(torch.equal(soft, data.labels.values[image, view]) for image, view in matches.tolist())


def test_balanced_batches_are_half_whole_images(data: StudentData) -> None:
    """Over two epochs exactly half."""
    local = [
        flag
        for index in range(2)
        for _images, targets in epoch(make_sampler(data, batch=4, estimator="balanced", seed=0), index)
        for flag in targets.local.tolist()
    ]

    assert len(local) / 2 == sum(local)


def test_full_batches_hold_every_view_of_their_images(data: StudentData) -> None:
    """B (1 + v) samples."""
    batches = epoch(make_sampler(data, batch=5, estimator="full", seed=0), 0)

    assert [50, 50, 20] == [len(images) for images, _targets in batches]
    assert 12 == sum(int((~targets.local).sum()) for _images, targets in batches)


@pytest.mark.parametrize("estimator", ["pool", "balanced", "views"])
def test_an_epoch_is_a_function_of_seed_and_epoch(data: StudentData, estimator: str) -> None:
    """Asked out of order, it gives the same samples; another seed gives others."""
    straight = make_sampler(data, batch=5, estimator=estimator, seed=0)
    for index in range(3):
        epoch(straight, index)
    jumped = make_sampler(data, batch=5, estimator=estimator, seed=0)
    other = make_sampler(data, batch=5, estimator=estimator, seed=1)
    pictures = [torch.cat([images for images, _targets in epoch(sampler, 7)]) for sampler in (straight, jumped, other)]

    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


@pytest.mark.parametrize("estimator", ["views", "pool", "balanced", "full"])
def test_every_sample_carries_the_feature_label_of_its_image(data: StudentData, estimator: str) -> None:
    """Dense labels under every estimator: whole images are matched pixel by pixel; what is seen does not change."""
    privileged = _privileged(len(data.distilled.labels), 1)
    plain = epoch(make_sampler(data, batch=5, estimator=estimator, seed=0), 1)
    rich = epoch(
        make_sampler(dataclasses.replace(data, privileged=privileged), batch=5, estimator=estimator, seed=0), 1
    )
    whole = 0
    for (images, targets), (same, also) in zip(rich, plain, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(targets.soft, also.soft)
        assert also.privileged is None
        for row in (~targets.local).nonzero()[:, 0]:
            image = int((data.distilled.images == images[row]).flatten(1).all(dim=1).nonzero())
            assert torch.equal(privileged.values[image, 0], targets.privileged[row])
            whole += 1

    assert (whole > 0) == (estimator != "views")


def test_random_labels_are_drawn_for_each_sample_from_a_stream_of_their_own(files) -> None:
    """Every one of the K is seen, also within a batch; another epoch draws others; the order of images is the same."""
    distilled = read_distilled(Bundle.open(files.base))
    privileged = _privileged(len(distilled.labels), 3)
    plain = make_sampler(StudentData(distilled, None), batch=12, estimator="views", seed=0)
    rich = make_sampler(StudentData(distilled, None, privileged), batch=12, estimator="views", seed=0)
    drawn = []
    for index in range(8):
        ((images, targets),), ((same, _targets),) = epoch(rich, index), epoch(plain, index)
        assert torch.equal(images, same)
        which = (targets.privileged[:, None, None] == privileged.values).flatten(3).all(dim=3).nonzero()
        order = (images[:, None] == distilled.images).flatten(2).all(dim=2).nonzero()[:, 1]
        assert torch.equal(which[:, 0], torch.arange(12))
        assert torch.equal(which[:, 1], order)
        drawn.append(which[:, 2].tolist())

    assert all(len(set(each)) > 1 for each in drawn)
    assert {0, 1, 2} == {k for each in drawn for k in each}
    assert len({tuple(each) for each in drawn}) == 8


def _privileged(images: int, labels: int) -> PrivilegedSet:
    values = torch.randn(images, labels, 2, 3, 3, generator=seeding.generator(0, "values"))
    form = Form(arch="mlp", layer=1, attention=None, pool="avg", shape=(2, 3, 3))
    return PrivilegedSet("feature", values, form, None, {}, section=None)  # type: ignore[arg-type]
