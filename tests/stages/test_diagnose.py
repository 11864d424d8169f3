"""Diagnosing labels: against gradients written out here, on real digits, and what must not depend on what."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.data._dataset import Dataset, load
from ddlabel.distilled import DistilledSet
from ddlabel.labels._privileged import PrivilegedSet
from ddlabel.nets._net import Net, build
from ddlabel.privileged._form import Form
from ddlabel.privileged._measures import fisher_ratio
from ddlabel.privileged._objective import Objective, fit_norm
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.stages import _alignment, _basis
from ddlabel.stages._alignment import Real, Variant, alignment_on, held_out_nets
from ddlabel.stages._diagnose import diagnose
from ddlabel.stages._stage import Clock

ARCH = "convnet-d1-w4-instance"
FORM = Form(arch=ARCH, layer=1, attention=None, pool="avg", shape=(4, 4, 4))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", size=8, validation=0.0)


def space_of(dataset: Dataset) -> Space:
    return Space(kind="normalised", mean=dataset.info.mean, std=dataset.info.std)


def images_of(dataset: Dataset, ipc: int) -> DistilledSet:
    """The first images of each class."""
    space, hard = space_of(dataset), dataset.train.labels
    rows = torch.cat([(hard == label).nonzero().flatten()[:ipc] for label in range(10)])
    return DistilledSet(space.encode(dataset.train.pixels[rows]), hard[rows], dataset.info.classes, space)


def labels_of(distilled: DistilledSet, form: Form = FORM, *, count: int = 1) -> PrivilegedSet:
    """What fresh nets give."""
    nets = [build(form.arch, channels=1, size=8, classes=10, generator=generator(5, index)) for index in range(count)]
    with torch.no_grad():
        values = torch.stack([form.reduce(net.tap(distilled.images, form.layer)[0]) for net in nets], 1)
    return PrivilegedSet("feature", values, form, None, {"mode": "assigned"}, SimpleNamespace(teacher=[]))


def ignored() -> None:
    """A tick that nobody hears."""


def encoder(loss: Tensor, net: Net) -> Tensor:
    parameters = [value for name, value in net.named_parameters() if not name.startswith("classifier")]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters, retain_graph=True)])


def test_alignment_by_hand(digits: Dataset) -> None:
    """Two classes, one net: the mean of their cosines; without labels the objective does not count."""
    distilled = images_of(digits, 2)
    labels = labels_of(distilled).values[:, 0]
    real = Real(digits, distilled.space, CPU, seed=3)
    net = build(ARCH, channels=1, size=8, classes=10, generator=generator(0, "net"))
    variants = {"none": Variant(None), "labels": Variant(labels)}
    found = alignment_on(
        net,
        real,
        distilled.images,
        distilled.labels,
        variants,
        classes=[2, 7],
        form=FORM,
        objective=Objective(),
        tick=ignored,
    )
    cosines = []
    for label in (2, 7):
        batch = real.of_class(label, 256, "real")
        target = encoder(functional.cross_entropy(net(batch), torch.full((len(batch),), label)), net)
        rows = distilled.labels == label
        maps, logits = net.tap(distilled.images[rows], 1)
        loss = functional.cross_entropy(logits, distilled.labels[rows]) + 0.5 * (maps - labels[rows]).square().mean()
        cosines.append(functional.cosine_similarity(encoder(loss, net), target, dim=0).item())

    assert found["labels"].cosine == pytest.approx(sum(cosines) / 2, rel=1e-4)
    assert found["none"].cosine != found["labels"].cosine
    assert 0 < found["none"].distance < 2 * 4


def test_real_images_stand_in_for_themselves(digits: Dataset) -> None:
    """The whole real batch as the distilled set is aligned perfectly."""
    real = Real(digits, space_of(digits), CPU, seed=0)
    net = build(ARCH, channels=1, size=8, classes=10, generator=generator(0, "net"))
    images = real.of_class(4, 256, "real")
    hard = torch.full((len(images),), 4)
    found = alignment_on(
        net, real, images, hard, {"none": Variant(None)}, classes=[4], form=FORM, objective=Objective(), tick=ignored
    )

    assert found["none"].cosine == pytest.approx(1, abs=1e-5)


def test_a_record_holds_all_numbers_as_json_and_is_repeatable(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_alignment, "STEPS", 2)
    monkeypatch.setattr(_basis, "REAL_FEATURES", 100)
    distilled = images_of(digits, 2)
    labels = labels_of(distilled, count=2)
    events: list[int] = []
    record = diagnose(
        labels,
        distilled,
        digits,
        Clock(CPU),
        objective=Objective(),
        norm=None,
        seed=1,
        on_event=lambda event: events.append(event.done),
    )
    again = diagnose(labels, distilled, digits, Clock(CPU), objective=Objective(), norm=None, seed=1)
    noise, ours = record["measures"]["noise"], record["measures"]["labels"]

    assert json.loads(json.dumps(record, allow_nan=False)) == again
    assert events == list(range(1, 3 * 2 + 6 * 10 + 1))
    assert set(record["alignment"]) == {"none", "noise", "labels"}
    assert len(record["alignment"]["labels"]["trained"]["cosine_by_net"]) == 3
    assert noise["effective_rank"] > ours["effective_rank"]
    assert noise["deviation"] == pytest.approx(1, abs=0.1)
    assert ours["within_class_spread"] < noise["within_class_spread"]
    assert record["labels_per_image"] == 2
    assert len(record["picture"]["points"]) == len(record["picture"]["hard"]) == 20
    assert record["scale"]["rho"] == pytest.approx(0.5 * record["scale"]["ratio"], rel=1e-4)


def test_one_image_per_class_has_no_spread_within(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """zscore labels too, and a class without images: it is left out."""
    monkeypatch.setattr(_alignment, "STEPS", 0)
    monkeypatch.setattr(_alignment, "NETS", 1)
    distilled = images_of(digits, 1)
    distilled = dataclasses.replace(distilled, images=distilled.images[1:], labels=distilled.labels[1:])
    form = Form(arch=ARCH, layer=1, attention="channel", pool="avg", shape=(4, 1, 1))
    labels = labels_of(distilled, form)
    norm = fit_norm(labels.values)
    record = diagnose(labels, distilled, digits, Clock(CPU), objective=Objective(norm="zscore"), norm=norm, seed=0)
    ours = record["measures"]["labels"]

    assert record["setting"]["classes"] == 9
    assert ours["fisher_ratio"] is None
    assert ours["within_class_spread"] is None
    assert ours["between_variance"] > 0
    assert record["told_apart_by"] == "held-out nets"


def test_batch_norms_are_held_at_real_statistics(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_alignment, "NETS", 1)
    monkeypatch.setattr(_alignment, "STEPS", 1)
    real = Real(digits, space_of(digits), CPU, seed=0)
    nets = dict(held_out_nets(real, "convnet-d1-w4-batch", ignored))
    norm = next(module for module in nets["init"].modules() if isinstance(module, torch.nn.BatchNorm2d))

    assert list(nets) == ["init", "trained"]
    assert not norm.training
    assert norm.running_mean.abs().max() > 0


def test_labels_of_a_converged_net_tell_more_than_those_after_one_epoch(digits: Dataset) -> None:
    """Features of 10 images per class by one net, after 1 epoch of SGD and after 40."""
    distilled = images_of(digits, 10)
    real = Real(digits, distilled.space, CPU, seed=0)
    net = build("convnet-d1-w16", channels=1, size=8, classes=10, generator=generator(0, "net"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    ratios = []
    for step in range(1, 201):
        images, hard = real.batch("teacher", step)
        optimizer.zero_grad()
        functional.cross_entropy(net(images), hard).backward()
        optimizer.step()
        if step in {5, 200}:
            with torch.no_grad():
                ratios.append(fisher_ratio(net.tap(distilled.images, 1)[0].flatten(1), distilled.labels) or 0)

    assert ratios[1] > 1.2 * ratios[0]
