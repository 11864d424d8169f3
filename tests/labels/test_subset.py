"""Labels of some images: the same values, and views that need no image that is not there."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ddlabel import _plugins
from ddlabel.bundle import Bundle
from ddlabel.errors import UsageError
from ddlabel.labels._labels import LabelSet, load_kind, read_labels
from ddlabel.labels._subset import labels_of_images

CHOSEN = torch.tensor([1, 2, 5, 7])
IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fkd(files):
    """Makes fkd labels of eight images: options to a label set, whose values are numbered."""
    template = read_labels(Bundle.open(files.soft), "soft")

    def make(**options) -> LabelSet:
        kind = _plugins.load("labels", "fkd", "KIND")(**options).bound(seed=0, flip=True)
        values = torch.arange(8 * kind.views * 4.0).reshape(8, kind.views, 4)
        return dataclasses.replace(
            template, kind="fkd", values=values, parameters=kind.parameters(8), augmentation=kind.augmentation(8, 8)
        )

    return make


@pytest.mark.parametrize("kind", ["soft", "dense"])
def test_other_kinds_keep_the_rows_of_their_images(files, kind: str) -> None:
    """A view of an image is of it alone."""
    labels = read_labels(Bundle.open(getattr(files, kind)), kind)
    part = labels_of_images(labels, CHOSEN)

    assert torch.equal(part.values, labels.values[CHOSEN])
    assert part.parameters == labels.parameters


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("replay", ["seeded", "explicit"])
def test_views_of_a_memory_are_those_that_were_labelled(fkd, mix: str, replay: str) -> None:
    """Each slot of the part is a view of the whole, with its label, and mixes in nothing from outside the part."""
    labels = fkd(views=12, mix=mix, replay=replay)
    part = labels_of_images(labels, CHOSEN)
    whole, alone = load_kind(labels), load_kind(part)
    elsewhere = IMAGES.clone()
    elsewhere[[0, 3, 4, 6]] = 100.0

    for slot in range(12):
        view = part.view_ids[:, slot]
        made = alone.view(IMAGES[CHOSEN], torch.arange(4), view)
        assert torch.equal(made, whole.view(IMAGES, CHOSEN, view))
        assert torch.equal(made, whole.view(elsewhere, CHOSEN, view))
        assert torch.equal(part.values[:, slot], labels.values[CHOSEN, view])
    used = [len(set(part.view_ids[row].tolist())) for row in range(4)]
    assert ([12] * 4 == used) == (mix == "none")


def test_a_part_of_a_part_is_a_part(fkd) -> None:
    """So that draws are made once for all memories."""
    labels = fkd(views=12)
    once, twice = (
        labels_of_images(each, CHOSEN) for each in (labels, labels_of_images(labels, torch.arange(len(labels.values))))
    )

    assert torch.equal(once.view_ids, twice.view_ids)
    assert torch.equal(once.values, twice.values)


def test_an_image_without_a_view_of_its_own_is_refused(fkd) -> None:
    """One view, mixed with an image that is not there."""
    labels = fkd(views=1, replay="explicit")
    draws = labels.augmentation | {"partner": torch.full((8, 1), 6, dtype=torch.uint8)}

    with pytest.raises(UsageError, match="all 1 labelled views of image 1 mix in images that are not to be seen"):
        labels_of_images(dataclasses.replace(labels, augmentation=draws), CHOSEN)
