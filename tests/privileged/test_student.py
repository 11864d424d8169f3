"""Adapters and the tapped student: shapes, Facts A and B, and bits; closed forms or plain training beside them."""

from __future__ import annotations

import pytest
import torch

from ddlabel import seeding
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.errors import BundleError, UsageError
from ddlabel.losses._loss import Targets
from ddlabel.losses.ce import LOSS as CrossEntropy
from ddlabel.nets._net import build
from ddlabel.privileged._form import Form, layer_shapes
from ddlabel.privileged._objective import Norm, Objective
from ddlabel.privileged._student import (
    Adapter,
    PrivilegedLoss,
    Tapped,
    TappedStudent,
    student_layer,
)
from ddlabel.training import Recipe, train

IMAGE = {"channels": 3, "size": 16, "classes": 4}
NET = "convnet-d2-w8-instance"


def form(shape: tuple[int, int, int], *, layer: int = 2, attention: str | None = None) -> Form:
    return Form(arch=NET, layer=layer, attention=attention, pool="avg", shape=shape)


def rng(*path: str | int) -> torch.Generator:
    return seeding.generator(0, "test", *path)


def make_student(arch: str, of: Form, mode: str = "auto") -> TappedStudent:
    layer, source = student_layer(of, arch, **IMAGE)
    return TappedStudent(build(arch, **IMAGE, generator=rng("init")), layer, Adapter(source, of, mode, rng("adapter")))


@pytest.mark.parametrize(
    ("arch", "of", "compared", "trained"),
    [
        (NET, form((8, 4, 4)), (8, 4, 4), 0),
        ("convnet-d2-w8-bn", form((8, 4, 4)), (8, 4, 4), 0),
        ("convnet-d2-w4", form((8, 4, 4)), (8, 4, 4), 4 * 8 + 8),
        ("convnet-d3-w8", form((8, 4, 4)), (8, 2, 2), 0),
        ("convnet-d1-w4", form((8, 4, 4)), (8, 4, 4), 4 * 8 + 8),
        ("convnet-d1-w4", form((1, 4, 4), attention="spatial"), (1, 4, 4), 0),
        ("convnet-d3-w4", form((1, 4, 4), attention="spatial"), (1, 2, 2), 0),
        ("convnet-d3-w4", form((8, 1, 1), attention="channel"), (8, 1, 1), 4 * 8 + 8),
        ("mlp", form((8, 4, 4)), (8, 4, 4), 128 * 128 + 128),
        ("mlp", form((1, 4, 4), attention="spatial"), (1, 4, 4), 128 * 16 + 16),
        ("mlp", form((8, 1, 1), attention="channel"), (8, 1, 1), 128 * 8 + 8),
        ("mlp", Form(arch="mlp", layer=2, attention=None, pool="avg", shape=(128, 1, 1)), (128, 1, 1), 0),
        ("convnet-d2-w4", Form(arch="mlp", layer=1, attention=None, pool="avg", shape=(128, 1, 1)), (128, 1, 1), 640),
    ],
)
def test_features_of_every_student_take_the_form_of_the_labels(arch: str, of: Form, compared, trained: int) -> None:
    """The smaller map, the label's channels; trained numbers only where shapes differ; logits are the net's own."""
    student = make_student(arch, of).eval()
    images = torch.randn(5, 3, 16, 16, generator=rng("images"))
    logits, features = student(images)

    assert (5, *compared) == tuple(features.shape)
    assert trained == student.adapter.parameter_count
    assert (compared != of.shape) == student.adapter.shrinks_labels
    assert torch.equal(student.net(images), logits)


def test_an_orthogonal_adapter_is_frozen_and_keeps_lengths() -> None:
    """Rows or columns of unit length at right angles; nothing to train."""
    for arch, size in (("convnet-d2-w4", 4), ("convnet-d2-w16", 8)):
        adapter = make_student(arch, form((8, 4, 4)), "orthogonal").adapter
        weight = adapter.weight
        square = weight.T @ weight if len(weight) > weight.shape[1] else weight @ weight.T

        torch.testing.assert_close(torch.eye(size), square)
        assert 0 == adapter.parameter_count
        assert "orthogonal" == adapter.kind


def test_a_learned_adapter_can_be_asked_for_between_equal_shapes() -> None:
    """Two nets of one shape have different bases."""
    assert 8 * 8 + 8 == make_student("convnet-d2-w8-bn", form((8, 4, 4)), "learned").adapter.parameter_count


@pytest.mark.parametrize("arch", ["convnet-d2-w4", "convnet-d3-w8", "mlp"])
def test_other_shapes_without_an_adapter_are_refused(arch: str) -> None:
    """With both shapes and the way out."""
    with pytest.raises(UsageError, match=r"labels are 8x4x4 of .*--arch convnet-d2-w8-instance"):
        make_student(arch, form((8, 4, 4)), "none")


@pytest.mark.fault(70)
def test_the_last_layer_is_the_last_of_every_student_and_others_keep_their_number() -> None:
    """A layer that a student lacks is refused with those it has."""
    last, second = form((8, 4, 4)), Form(arch="convnet-d3-w8", layer=2, attention=None, pool="avg", shape=(8, 4, 4))

    assert (3, (4, 2, 2)) == student_layer(last, "convnet-d3-w4", **IMAGE)
    assert (2, (4, 4, 4)) == student_layer(second, "convnet-d4-w4", **IMAGE)
    assert ((4, 8, 8),) == layer_shapes("convnet-d1-w4", **IMAGE)
    with pytest.raises(BundleError, match=r"layer 2 of 'convnet-d3-w8', 'convnet-d1-w4' has layers 1 4x8x8"):
        student_layer(second, "convnet-d1-w4", **IMAGE)


def test_fact_a_all_labels_and_their_mean_pull_alike() -> None:
    """The mean of the K regressions has the gradient of the regression on the mean, in float64."""
    features = torch.randn(6, 8, 4, 4, generator=rng("features"), dtype=torch.float64, requires_grad=True)
    labels = torch.randn(6, 3, 8, 4, 4, generator=rng("labels"), dtype=torch.float64)
    hard, objective = torch.zeros(6, dtype=torch.int64), Objective(lambda_reg=0.7)
    each = sum(objective(features, labels[:, k], hard) for k in range(3)) / 3
    mean = objective(features, labels.mean(dim=1), hard)

    torch.testing.assert_close(
        torch.autograd.grad(each, features)[0], torch.autograd.grad(mean, features)[0], rtol=1e-12, atol=0
    )
    torch.testing.assert_close(objective(features.repeat(2, 1, 1, 1), labels.mean(1).repeat(2, 1, 1, 1), hard), mean)


def test_only_whole_images_are_compared_and_labels_follow_mirrored_ones() -> None:
    """Against the sums written out."""
    logits, hard = torch.zeros(4, 4), torch.tensor([0, 1, 2, 3])
    features = torch.randn(4, 2, 3, 3, generator=rng("features"))
    labels = torch.randn(4, 2, 3, 3, generator=rng("labels"))
    local, mirrored = torch.tensor([False, True, True, False]), torch.tensor([False, False, True, True])
    targets = Targets(hard, None, None, local, labels, mirrored)
    loss = PrivilegedLoss(CrossEntropy(), Objective(lambda_reg=2.0), mirror=True)
    plain = torch.log(torch.tensor(4.0))
    wanted = ((features[0] - labels[0]).square().mean() + (features[3] - labels[3].flip(2)).square().mean()) / 2

    torch.testing.assert_close(plain + 2 * wanted, loss(Tapped(logits, features), targets))
    views = Targets(hard, None, None, torch.ones(4, dtype=torch.bool), labels)
    torch.testing.assert_close(plain, loss(Tapped(logits, features), views))


def test_labels_of_larger_maps_are_averaged_down_before_and_after_norm() -> None:
    """A student with 2 x 2 maps sees means of four, normalised by the norm in its shape."""
    labels, features = torch.randn(3, 2, 4, 4, generator=rng("labels")), torch.zeros(3, 2, 2, 2)
    norm = Norm(torch.full((2, 2, 2), 0.5), torch.full((2, 2, 2), 2.0))
    loss = PrivilegedLoss(CrossEntropy(), Objective(lambda_reg=1.0, norm="zscore"), norm, (2, 2, 2))
    targets = Targets(torch.zeros(3, dtype=torch.int64), None, None, None, labels)
    means = labels.reshape(3, 2, 2, 2, 2, 2).mean(dim=(3, 5))
    wanted = torch.log(torch.tensor(4.0)) + (means / 2).square().mean()

    torch.testing.assert_close(wanted, loss(Tapped(torch.zeros(3, 4), features), targets))


def _train(student: torch.nn.Module, loss, *, privileged: bool, **recipe) -> torch.nn.Module:
    images = torch.randn(12, 3, 16, 16, generator=rng("images"))
    labels = torch.randn(12, 8, 4, 4, generator=rng("labels"))

    def sample(epoch: int, generator: torch.Generator):
        for index in torch.randperm(12, generator=generator).split(6):
            yield images[index], Targets(index % 4, None, None, None, labels[index] if privileged else None)

    options = {"epochs": 2, "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **recipe}
    return train(student, sample, Recipe(**options), loss, build_augmentation("flip"), seed=3, seed_path=("student",))


@pytest.mark.parametrize(
    "recipe",
    [{}, {"optimizer": "gsam", "ema": True}, {"optimizer": "adam", "gradient_penalty": 0.1}],
    ids=["sgd", "gsam and averaged weights", "adam and input gradients"],
)
def test_t4_with_weight_zero_students_are_the_bits_of_plain_training(recipe) -> None:
    """Whatever else is in the recipe, with an adapter beside the net."""
    arch = "convnet-d2-w4-bn"
    plain = _train(build(arch, **IMAGE, generator=rng("init")), CrossEntropy(), privileged=False, **recipe)
    tapped = make_student(arch, form((8, 4, 4)))
    _train(tapped, PrivilegedLoss(CrossEntropy(), Objective(lambda_reg=0.0)), privileged=True, **recipe)

    for name, value in plain.state_dict().items():
        assert torch.equal(value, tapped.net.state_dict()[name]), name


def test_t9_the_adapter_is_trained_and_is_no_part_of_the_student() -> None:
    """A learned one moves, a frozen one does not; both pull at the net; neither is in the net that is scored."""
    plain = _train(build("convnet-d2-w4", **IMAGE, generator=rng("init")), CrossEntropy(), privileged=False)
    for mode, moves in (("learned", True), ("orthogonal", False)):
        tapped = make_student("convnet-d2-w4", form((8, 4, 4)), mode)
        before = tapped.adapter.weight.detach().clone()
        _train(tapped, PrivilegedLoss(CrossEntropy(), Objective(lambda_reg=0.5), mirror=True), privileged=True)

        assert moves == (not torch.equal(before, tapped.adapter.weight))
        assert plain.state_dict().keys() == tapped.net.state_dict().keys()
        assert not torch.equal(plain.classifier.weight, tapped.net.classifier.weight)


def test_training_tells_the_loss_which_samples_were_mirrored() -> None:
    """Of what the net saw, against the images themselves."""
    images = torch.randn(12, 3, 16, 16, generator=rng("images"))
    net, seen = build(NET, **IMAGE, generator=rng("init")), []

    def sample(epoch: int, generator: torch.Generator):
        yield images, Targets(torch.arange(12) % 4, None, None, None, torch.zeros(12, 8, 4, 4))

    def loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        seen.append(targets.mirrored)
        return CrossEntropy()(logits, targets)

    net.register_forward_pre_hook(lambda _net, given: seen.append((given[0] != images).flatten(1).any(dim=1)))
    train(net, sample, Recipe(epochs=1), loss, build_augmentation("flip"), seed=0, seed_path=("student",))

    assert torch.equal(*seen)
    assert 0 < int(seen[0].sum()) < 12
