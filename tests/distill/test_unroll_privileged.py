"""Feature and attention labels inside every step of an unrolled student: against differences and closed forms."""

from __future__ import annotations

from dataclasses import replace
from operator import methodcaller
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from ddlabel.augment._augment import Step
from ddlabel.distill import _student
from ddlabel.distill._student import Part, Privileged, Student
from ddlabel.distill._unroll import Matched, Unrolled, Waypoint, _simulate, match
from ddlabel.nets._net import build
from ddlabel.privileged._form import Form
from ddlabel.privileged._objective import Norm, Objective

F64 = torch.float64
SMOOTH = "convnet-d2-w4-swish"
RELU = "convnet-d2-w4"
PLAIN = Objective(lambda_reg=2.0)


def make_form(arch: str, layer: int, attention: str | None, pool: str, size: int = 8) -> Form:
    """The shape is that of the net's own maps."""
    net = build(arch, channels=3, size=size, classes=3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = net.tap(torch.zeros(2, 3, size, size), layer)[0]
        free = Form(arch=arch, layer=layer, attention=attention, pool=pool, shape=(0, 0, 0))
        shape = free.reduce(maps).shape[1:]
    return replace(free, shape=tuple(shape))


def make_run(
    arch: str = RELU,
    *,
    steps: int = 3,
    layer: int = 2,
    attention: str | None = None,
    pool: str = "avg",
    objective: Objective = PLAIN,
    mirror: bool = False,
    norm: bool = False,
    **changes: Any,
) -> Unrolled:
    """Five images of three classes in batches of three, soft labels, and a label of each image's feature."""
    source = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=F64)

    net = build(arch, channels=3, size=8, classes=3, generator=source).double()
    start = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])
    start = start + 0.05 * normal(len(start))
    form, hard = make_form(arch, layer, attention, pool), torch.tensor([0, 1, 2, 0, 1])
    scaler = Norm(normal(*form.shape), normal(*form.shape).abs() + 0.5) if norm else None
    run = Unrolled(
        net=net,
        images=normal(5, 3, 8, 8),
        labels=hard,
        logits=normal(5, 3),
        start=start,
        waypoints=(Waypoint(steps, start + 0.1 * normal(len(start))),),
        lr=0.3,
        batches=tuple(torch.randperm(5, generator=source)[:3] for _step in range(steps)),
        draws=((),) * steps,
        privileged=Privileged(
            labels=normal(5, *form.shape), hard=hard, form=form, objective=objective, norm=scaler, mirror=mirror
        ),
    )
    return replace(run, **changes)


def flipped(run: Unrolled, *, shared: bool = False) -> Unrolled:
    """The same with a flip of the first and third image of every batch, or of all."""
    chosen = torch.tensor([True]) if shared else torch.tensor([True, False, True])
    return replace(run, draws=((Step("flip", {"flip": chosen}),),) * len(run.batches))


def labelled(run: Unrolled, labels: Tensor) -> Unrolled:
    assert run.privileged is not None
    return replace(run, privileged=replace(run.privileged, labels=labels))


def values(run: Unrolled) -> Tensor:
    assert run.privileged is not None
    return run.privileged.labels


def gradient_of(matched: Matched) -> Tensor:
    assert matched.privileged is not None
    return matched.privileged


def assert_same(found: Matched, expected: Matched) -> None:
    names = ("loss", "images", "logits", "lr", "privileged")
    for name in names:
        one, other = getattr(found, name), getattr(expected, name)
        assert float(other.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * float(other.abs().max()), msg=name)
    for one, other in zip(found.path, expected.path, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


class TestAgreement:
    """The adjoint against automatic differentiation through the whole run."""

    @pytest.mark.parametrize("layer", [1, 2])
    @pytest.mark.parametrize("attention", [None, "spatial", "channel"])
    @pytest.mark.parametrize("pool", ["avg", "max"])
    @pytest.mark.parametrize("arch", [RELU, "convnet-d2-w4-bn", "convnet-d2-w4-max"])
    def test_of_every_form_by_hand_and_automatic(self, arch: str, layer: int, attention: str | None, pool: str) -> None:
        """Instance and batch norm by hand, max pooling by automatic differentiation."""
        run = make_run(arch, layer=layer, attention=attention, pool=pool, momentum=0.5, microbatch=2)
        assert_same(match(run), match(run, "full"))

    @pytest.mark.parametrize(
        "changes",
        [
            {"steps": 1},
            {"steps": 5, "momentum": 0.9},
            {"logits": None},
            {"loss_scale": 1.3},
            {"microbatch": 1},
            {"norm": True, "objective": Objective(lambda_reg=0.7, norm="zscore")},
            {"objective": Objective(norm="l2")},
            {"objective": Objective(metric="cosine", ce=0.3), "microbatch": 1},
            {"objective": Objective(metric="mmd"), "microbatch": 1},
            {"objective": Objective(infonce=0.1, supcon=0.2), "microbatch": 1},
        ],
    )
    def test_of_every_objective(self, changes: dict[str, Any]) -> None:
        """Sums over micro-batches where samples do not mix; whole batches where they do."""
        run = make_run(**changes)
        whole = match(replace(run, microbatch=3), "full")
        if run.logits is None:
            whole, mine = replace(whole, logits=whole.images), match(run)
            assert_same(replace(mine, logits=mine.images), whole)
        else:
            assert_same(match(run), whole)

    @pytest.mark.parametrize("shared", [False, True])
    def test_of_mirrored_labels(self, shared: bool) -> None:
        """Labels turn with their images, in micro-batches too, whether the draw is shared or not."""
        run = flipped(make_run(mirror=True), shared=shared)
        whole = match(replace(run, microbatch=3), "full")
        assert_same(match(replace(run, microbatch=2)), whole)
        still = match(flipped(make_run(mirror=False), shared=shared), "full")
        assert float((still.loss - whole.loss).abs()) > 1e-9

    def test_tesla_is_exact_for_one_step_and_scales_labels_like_images(self) -> None:
        """Its other steps lose the curvature."""
        run = make_run(steps=1)
        assert_same(match(run, "tesla"), match(run, "full"))
        run = make_run(steps=3)
        whole, half = (gradient_of(match(run, "tesla", tesla_scale=scale)) for scale in (1.0, 0.5))
        assert torch.equal(2 * half, whole)
        assert float((whole - gradient_of(match(run))).abs().max()) > 1e-6 * float(whole.abs().max())

    def test_a_net_of_vectors_has_labels_too(self) -> None:
        """An MLP is tapped as (m, f, 1, 1)."""
        run = make_run("mlp", layer=1)
        assert_same(match(run), match(run, "full"))


class TestGradient:
    """What the gradient of the labels is."""

    @pytest.mark.parametrize("unroll", ["adjoint", "full"])
    def test_is_that_of_central_differences(self, unroll: str) -> None:
        """A smooth net, every unroll (T5); the differences are of the loss alone."""
        run = make_run(SMOOTH, microbatch=2)
        gradient, source = gradient_of(match(run, unroll)), torch.Generator().manual_seed(3)
        for _direction in range(3):
            along = torch.randn(gradient.shape, generator=source, dtype=F64)
            ends = [match(labelled(run, values(run) + step * along), unroll).loss for step in (1e-5, -1e-5)]
            slope = float((ends[0] - ends[1]) / 2e-5)
            assert abs(slope) > 1e-6
            assert slope == pytest.approx(float((gradient * along).sum()), rel=1e-5)

    def test_of_images_and_rate_includes_the_labels_part(self) -> None:
        """The regression pulls images too: central differences of X and of beta."""
        run, source = make_run(SMOOTH), torch.Generator().manual_seed(4)
        matched = match(run)
        along = torch.randn(run.images.shape, generator=source, dtype=F64)
        ends = [match(replace(run, images=run.images + step * along)).loss for step in (1e-5, -1e-5)]
        assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(float((matched.images * along).sum()), rel=1e-5)
        ends = [match(replace(run, lr=0.3 + step)).loss for step in (1e-5, -1e-5)]
        assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(float(matched.lr), rel=1e-5)

    def test_is_zero_for_images_in_no_batch_and_only_for_these(self) -> None:
        """T5."""
        run = make_run(batches=(torch.tensor([0, 1]), torch.tensor([3, 1]), torch.tensor([0, 3])))
        moved = gradient_of(match(run)).flatten(1).abs().amax(dim=1) > 0
        assert moved.tolist() == [True, True, False, True, False]

    def test_of_one_step_is_fact_d(self) -> None:
        """+2 beta lambda / (B d) times the JVP of the features along a = dL / d theta_1: the update subtracts."""
        run = make_run(steps=1)
        assert run.privileged is not None
        rows, student = run.batches[0], Student(run.net, by_hand=False)
        target = run.waypoints[0].parameters
        along = 2 * (_simulate(run, student)[-1] - target) / (run.start - target).square().sum()

        def features(vector: Tensor) -> Tensor:
            names = [name for name, _parameter in run.net.named_parameters()]
            state = {"net." + name: view for name, view in zip(names, student._unflatten(vector), strict=True)}
            maps: Tensor = functional_call(
                _student.Called(run.net, methodcaller("tap", run.images[rows], 2)), state, ()
            )[0]
            return maps

        vector = run.start.clone().requires_grad_(True)
        maps = features(vector)
        weights = torch.zeros_like(maps, requires_grad=True)
        (pulled,) = torch.autograd.grad(maps, vector, weights, create_graph=True)
        (tangent,) = torch.autograd.grad(pulled @ along, weights)
        expected = torch.zeros_like(values(run))
        expected[rows] = 2 * 0.3 * 2.0 / maps.numel() * tangent
        torch.testing.assert_close(gradient_of(match(run)), expected, rtol=1e-9, atol=1e-15)

    def test_takes_features_at_the_unrolled_parameters(self) -> None:
        """The trap of a fixed net: the labels' part of a step's gradient in theta is there, and moves every weight."""
        run = make_run()
        with_labels, without = match(run), match(replace(run, privileged=None))
        assert float((with_labels.path[1] - without.path[1]).abs().max()) > 1e-3
        student, part = Student(run.net, by_hand=True), run.parts(0, run.images, run.target())[0][1]
        plain = replace(part, privileged=None)
        own = student.gradient(run.start, [part]) - student.gradient(run.start, [plain])
        head = run.net.classifier.weight.numel() + 3  # type: ignore[attr-defined,union-attr,operator]
        assert float(own[:-head].abs().max()) > 1e-3
        assert float(own[-head:].abs().max()) == 0.0
        assert float(gradient_of(with_labels).abs().max()) > 0

    def test_of_a_weight_of_zero_is_zero_and_leaves_the_run_as_it_is_without(self) -> None:
        """T4: X, Y and beta get the base method's own gradients."""
        run = make_run(objective=Objective(lambda_reg=0.0))
        found, plain = match(run), match(replace(run, privileged=None))
        assert float(gradient_of(found).abs().max()) == 0.0
        for one, other in zip(found.tensors()[:4], plain.tensors(), strict=True):
            assert torch.equal(one, other)


class TestTruth:
    """What a student that gives its labels does."""

    @pytest.mark.parametrize("attention", [None, "spatial"])
    def test_own_features_at_every_step_are_plain_matching(self, attention: str | None) -> None:
        """T6: the regression is zero and has no gradient. Each image is in one batch, so each step has its own."""
        run = make_run(attention=attention, batches=(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([3])))
        plain = match(replace(run, privileged=None), "full")
        assert run.privileged is not None
        truth = torch.zeros_like(values(run))
        for rows, theta in zip(run.batches, plain.path, strict=False):
            torch.nn.utils.vector_to_parameters(theta, run.net.parameters())
            with torch.no_grad():
                truth[rows] = run.privileged.form.reduce(run.net.tap(run.images[rows], 2)[0])
        found = match(labelled(run, truth), "full")
        part = run.parts(0, run.images, run.target(), truth)[0][1]
        theta = found.path[0]
        losses = [Student(run.net, by_hand=False).loss(theta, p) for p in (part, replace(part, privileged=None))]
        assert float((losses[0] - losses[1]).detach()) == pytest.approx(0, abs=1e-15)
        torch.testing.assert_close(found.loss, plain.loss, rtol=1e-12, atol=0)
        for one, other in zip(found.path, plain.path, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-13)

    def test_there_is_no_pooling_that_nobody_asked_for(self) -> None:
        """The loss of one image is that of its whole map, element by element."""
        run = make_run(logits=None)
        assert run.privileged is not None
        part = Part(run.images[:2], run.labels[:2], (), 0.0, run.privileged.rows(torch.tensor([0, 1]), values(run)))
        torch.nn.utils.vector_to_parameters(run.start, run.net.parameters())
        maps = run.net.tap(run.images[:2], 2)[0].detach()
        expected = 2.0 * sum(float((maps[i] - values(run)[i]).square().sum()) for i in (0, 1)) / maps.numel()
        assert float(Student(run.net, by_hand=False).loss(run.start, part).detach()) == pytest.approx(
            expected, rel=1e-12
        )

    def test_the_mean_of_labels_teaches_what_their_losses_mean(self) -> None:
        """Fact A: the regression on K labels has the gradient of the regression on their mean."""
        run, student = make_run(), Student(make_run().net, by_hand=True)
        labels = torch.randn(3, *values(run).shape, generator=torch.Generator().manual_seed(1), dtype=F64)
        gradients = [
            student.gradient(run.start, [part])
            for own in (*labels, labels.mean(0))
            for _rows, part in run.parts(0, run.images, run.target(), own)
        ]
        torch.testing.assert_close(torch.stack(gradients[:3]).mean(0), gradients[3], rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("layer", "arch"), [(2, RELU), (1, RELU), (1, "convnet-d2-w4-bn")])
    def test_labels_are_read_by_the_rest_of_the_net_at_the_vector(self, layer: int, arch: str) -> None:
        """Twice the same, differentiable in the labels alone, and no buffer is touched."""
        run = make_run(arch, layer=layer)
        student, before = Student(run.net, by_hand=False), {k: v.clone() for k, v in run.net.state_dict().items()}
        leaf, vector = values(run).clone().requires_grad_(True), run.start.clone().requires_grad_(True)
        logits = [student.read(vector, leaf, layer) for _again in range(2)]
        assert torch.equal(*logits)
        logits[0].square().sum().backward()
        assert vector.grad is None
        assert leaf.grad is not None
        assert float(leaf.grad.abs().max()) > 0
        assert all(torch.equal(value, before[name]) for name, value in run.net.state_dict().items())
        torch.nn.utils.vector_to_parameters(run.start, run.net.parameters())
        torch.testing.assert_close(logits[0], run.net.rest(values(run), layer), rtol=1e-12, atol=0)
