"""Whose features labels are: nets that reproduce them, found through the history of real bundles."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from ddlabel.bundle import Bundle
from ddlabel.config import AugmentLabelsConfig, RefineConfig
from ddlabel.distilled import read_distilled
from ddlabel.labels._privileged import PrivilegedSet, read_privileged
from ddlabel.nets._net import Net
from ddlabel.stages import augment_labels, refine
from ddlabel.stages._basis import own_nets
from ddlabel.teachers import Teacher

CPU = torch.device("cpu")


def assigned(files, *teachers: Bundle, checkpoint: str = "default") -> Bundle:
    config = AugmentLabelsConfig(kind="feature", checkpoint=checkpoint, codec="f32", device="cpu")
    return augment_labels.run(Bundle.open(files.base), config, teachers=teachers)


def found(bundle: Bundle, *teachers: Bundle) -> list[Net]:
    return own_nets(read_privileged(bundle, "feature"), bundle.manifest.history, teachers, CPU)


def features(bundle: Bundle, nets: list[Net]) -> Tensor:
    """Their mean label of each image, (n, *shape)."""
    layer = read_privileged(bundle, "feature").form.layer
    with torch.no_grad():
        return torch.stack([net.tap(read_distilled(bundle).images, layer)[0] for net in nets]).mean(0)


def epochs(nets: list[Net], teacher: Bundle) -> list[int]:
    """The epochs that nets are of, by their first parameter."""
    points = Teacher(teacher).checkpoints
    firsts = {point.epoch: next(Teacher(teacher).net(point).parameters()) for point in points}
    return [epoch for net in nets for epoch, first in firsts.items() if torch.equal(first, next(net.parameters()))]


@pytest.mark.parametrize(("checkpoint", "count"), [("default", 1), ("last", 1), ("all", 2)])
def test_the_nets_reproduce_the_labels_that_they_assigned(files, checkpoint: str, count: int) -> None:
    """The teacher kept epochs 1 and 4; labels are of epoch 1 unless another is named."""
    teacher = Bundle.open(files.teacher)
    labelled = assigned(files, teacher, checkpoint=checkpoint)
    nets = found(labelled, teacher)
    labels = read_privileged(labelled, "feature").values[:, 0]

    assert len(nets) == count
    torch.testing.assert_close(features(labelled, nets), labels, rtol=1e-5, atol=1e-6)
    assert epochs(nets, teacher) == {"default": [1], "last": [4], "all": [1, 4]}[checkpoint]


def test_nets_that_are_not_at_hand_or_not_known_are_none(files) -> None:
    """No teacher, a history that does not say how, or one that says it of other labels."""
    teacher = Bundle.open(files.teacher)
    labelled = assigned(files, teacher)
    labels, history = read_privileged(labelled, "feature"), labelled.manifest.history

    assert not found(labelled)
    assert not own_nets(labels, history[:-1], [teacher], CPU)
    assert not own_nets(dataclasses.replace(labels, kind="attention"), history, [teacher], CPU)


def learned(labels: PrivilegedSet, **options: Any) -> tuple[PrivilegedSet, list[dict[str, Any]]]:
    """Labels of the same section as if they were learned with a teacher as expert, and the end of such a history."""
    parameters = {**labels.parameters, "mode": "learned", "matcher": "mtt"}
    entry = {"stage": "refine", "config": {"labels": "feature", "matcher": "mtt", "options": {"k": 1, **options}}}
    return dataclasses.replace(labels, parameters=parameters), [entry]


def test_experts_did_not_make_the_labels_that_were_learned_through_them(files) -> None:
    """An earlier assignment in the history does not count; `init=teacher` does."""
    teacher = Bundle.open(files.teacher)
    bundle = assigned(files, teacher)
    labels, end = learned(read_privileged(bundle, "feature"), init="one-epoch")
    first, begun = learned(labels, init="teacher")

    assert not own_nets(labels, [*bundle.manifest.history, *end], [teacher], CPU)
    assert epochs(own_nets(first, [*bundle.manifest.history, *begun], [teacher], CPU), teacher) == [4]


def test_learned_labels_are_told_apart_by_the_teacher_that_they_began_with(files) -> None:
    """Through the stage itself: the last net, though labels of epoch 1 were there before."""
    teacher = Bundle.open(files.teacher)
    config = RefineConfig(method="dcpi", data=files.data, device="cpu")
    settings = {"init": "teacher", "steps": 1, "outer": 1, "inner": 1, "batch_real": 4}
    bundle = refine.run(assigned(files, teacher), config, settings, teachers=(teacher,))

    assert epochs(found(bundle, teacher), teacher) == [4]
