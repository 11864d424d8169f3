"""Distribution matching against its definition, written out with one loss over all classes and torch's own SGD."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.augment._augment import Step, apply
from ddlabel.distill import _means, dm
from ddlabel.distill._means import Outputs, deepest, distance_of_means, match_means, mean_outputs
from ddlabel.distill._method import Problem, State, run
from ddlabel.distill.dm import DistributionMatching
from ddlabel.errors import UsageError
from ddlabel.events import Event
from ddlabel.nets._net import Net
from ddlabel.nets._net import build as build_net
from ddlabel.seeding import generator

MakeProblem = Callable[..., Problem]
COLOR = Step("color", {name: torch.tensor([0.7]) for name in ("brightness", "saturation", "contrast")})
AUGMENTATIONS = {"no augmentation": (), "colour jitter": (COLOR,)}


def random_net(problem: Problem, *path: str | int) -> Net:
    """The net that a step starts with."""
    net = build_net(problem.arch, channels=3, size=8, classes=3, generator=generator(problem.seed, *path))
    return net.requires_grad_(False)


def frozen_net(dtype: torch.dtype = torch.float32) -> Net:
    net = build_net("convnet-d1-w4-instance", channels=3, size=8, classes=3, generator=generator(0, "net"))
    return net.requires_grad_(False).to(dtype)


def some_images(count: int, name: str = "images") -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=generator(0, name))


def losses_of(method: DistributionMatching, problem: Problem) -> list[float]:
    events: list[Event] = []
    run(method, problem, on_event=events.append)
    return [event.metrics["loss"] for event in events]


class TestMatchMeans:
    """Loss and gradient of one class."""

    @pytest.mark.parametrize("microbatch", [None, 2], ids=["direct", "micro-batched"])
    @pytest.mark.parametrize("steps", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
    def test_gradient_equals_finite_differences(self, steps: tuple[Step, ...], microbatch: int | None) -> None:
        """Central differences in float64 along three random directions."""
        net, images = frozen_net(torch.float64), some_images(5).double()
        target = net.embed(some_images(4, "real").double()).mean(dim=0)
        _, gradient = match_means(Outputs(net), images, steps, [target], microbatch)
        for index in range(3):
            direction = torch.randn(images.shape, generator=generator(index, "direction"), dtype=torch.float64)
            up, down = (
                match_means(Outputs(net), images + sign * 1e-6 * direction, steps, [target])[0] for sign in (1, -1)
            )

            assert pytest.approx((up - down) / 2e-6, rel=1e-5) == float((gradient * direction).sum())

    def test_loss_is_the_sum_over_features(self) -> None:
        """Not the mean: the published step sizes go with the sum."""
        net, images = frozen_net(), some_images(5)
        target = torch.zeros(net.embed(images).shape[1])
        expected = sum(float(value) ** 2 for value in net.embed(images).mean(dim=0))

        assert pytest.approx(expected, rel=1e-5) == match_means(Outputs(net), images, (), [target])[0]

    @pytest.mark.parametrize("steps", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
    @pytest.mark.parametrize("microbatch", [1, 2, 3, 4, 7, 8])
    def test_micro_batched_equals_direct(self, microbatch: int, steps: tuple[Step, ...]) -> None:
        """Exact in float64, also when the last part is smaller."""
        net, images = frozen_net(torch.float64), some_images(7).double()
        target = net.embed(some_images(4, "real").double()).mean(dim=0)
        direct, micro = (match_means(Outputs(net), images, steps, [target], size) for size in (None, microbatch))

        assert pytest.approx(direct[0], rel=1e-12) == micro[0]
        torch.testing.assert_close(micro[1], direct[1], rtol=1e-10, atol=1e-12)

    def test_no_loss_and_no_gradient_when_the_images_are_the_real_batch(self) -> None:
        """In any order."""
        net, images = frozen_net(), some_images(6)
        loss, gradient = match_means(Outputs(net), images.flip(0), (), [net.embed(images).mean(dim=0)])

        assert loss < 1e-8
        assert float(gradient.abs().max()) < 1e-4

    def test_permuting_images_permutes_the_gradient(self) -> None:
        """The loss does not change."""
        net, images = frozen_net(torch.float64), some_images(6).double()
        order = torch.tensor([3, 0, 5, 1, 2, 4])
        target = torch.zeros(net.embed(images).shape[1], dtype=torch.float64)
        loss, gradient = match_means(Outputs(net), images, (), [target])
        permuted_loss, permuted = match_means(Outputs(net), images[order], (), [target])

        assert pytest.approx(loss) == permuted_loss
        torch.testing.assert_close(permuted, gradient[order])

    def test_the_images_are_not_changed(self) -> None:
        """Nor do they start to record gradients."""
        images = some_images(5)
        before = images.clone()
        for microbatch in (None, 2):
            match_means(Outputs(frozen_net()), images, (COLOR,), [torch.zeros(64)], microbatch)

        assert torch.equal(before, images)
        assert not images.requires_grad


class TestTaps:
    """Outputs of many layers (PAD's masks in DM)."""

    @pytest.mark.parametrize(
        ("shallow", "expected"), [(0, 12), (0.08, 12), (0.1, 11), (0.25, 9), (0.75, 3), (0.9, 2), (0.95, 1), (0.999, 1)]
    )
    def test_the_deepest_taps_stay(self, shallow: float, expected: int) -> None:
        """max(1, ceil((1 - share) * 12)) of ConvNet-D3, without rounding errors: 0.7 of 10 leaves 3."""
        assert expected == deepest(12, shallow)
        assert deepest(10, 0.7) == 3

    def test_outputs_weigh_alike_whatever_their_width(self) -> None:
        """Written out: each squared distance times the embedding's width over its own."""
        means = [torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), torch.tensor([1.0, -1.0])]
        targets = [torch.zeros(6), torch.tensor([0.5, 0.0])]

        assert pytest.approx(91 * 2 / 6 + 1.25) == float(distance_of_means(means, targets))

    @pytest.mark.parametrize("microbatch", [None, 1, 2, 4])
    @pytest.mark.parametrize("steps", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
    def test_gradient_equals_finite_differences(self, steps: tuple[Step, ...], microbatch: int | None) -> None:
        """Central differences in float64 of a loss written out over five taps."""
        net = build_net("convnet-d2-w4-instance-swish", channels=3, size=8, classes=3, generator=generator(0, "net"))
        net = net.requires_grad_(False).double()
        images, real = some_images(5).double(), some_images(4, "real").double()
        outputs = Outputs(net, 5)
        targets = mean_outputs(outputs, real, 3)

        def loss(images: Tensor) -> float:
            both = [[tap.flatten(1) for tap in net.taps(side)[3:]] for side in (apply(images, steps), real)]
            terms = [
                float((own.mean(dim=0) - other.mean(dim=0)).square().sum()) * 16 / own.shape[1]
                for own, other in zip(*both, strict=True)
            ]
            return sum(terms)

        value, gradient = match_means(outputs, images, steps, targets, microbatch)
        assert pytest.approx(loss(images), rel=1e-10) == value
        for index in range(3):
            direction = torch.randn(images.shape, generator=generator(index, "direction"), dtype=torch.float64)
            slope = (loss(images + 1e-5 * direction) - loss(images - 1e-5 * direction)) / 2e-5
            assert pytest.approx(slope, rel=1e-5) == float((gradient * direction).sum())

    def test_one_tap_is_plain_dm(self, make_problem: MakeProblem) -> None:
        """Bit for bit, also under batch norm."""
        for arch in ("convnet-d1-w4-instance", "convnet-d1-w4-batch"):
            problem = make_problem(arch=arch)
            plain, masked = (
                run(DistributionMatching(steps=3, mask_shallow=share), problem).images for share in (None, 0.9)
            )
            assert plain is not None
            assert masked is not None

            assert torch.equal(plain, masked)

    def test_other_shares_are_not(self, make_problem: MakeProblem) -> None:
        """Every tap that is left out changes the images; none left out is the largest loss."""
        losses = [
            losses_of(DistributionMatching(steps=1, mask_shallow=share), make_problem())[0]
            for share in (0.0, 0.25, 0.5, 0.75)
        ]

        assert losses == sorted(losses, reverse=True)
        assert len(set(losses)) == 4

    def test_micro_batches_change_nothing_but_rounding(self, make_problem: MakeProblem) -> None:
        """A whole run over all taps."""
        base = DistributionMatching(steps=4, mask_shallow=0.0)
        first, other = (run(m, make_problem()).images for m in (base, dataclasses.replace(base, microbatch=3)))

        torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-5)

    def test_a_net_without_taps_is_refused_before_the_first_step(self, make_problem: MakeProblem) -> None:
        """Named, with what would do."""
        with pytest.raises(UsageError, match="net 'MLP' has no taps after single layers, expected a ConvNet"):
            DistributionMatching(mask_shallow=0.0).prepare(make_problem(arch="mlp"), generator(0))


def by_definition(
    problem: Problem, method: DistributionMatching, state: State, steps: int
) -> tuple[Tensor, list[float]]:
    """DM without augmentation, real batches being whole classes: one loss, one backward pass, torch's SGD."""
    images = state["images"].clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=method.lr_images or 1.0, momentum=method.momentum)
    losses = []
    for index in range(steps):
        net = random_net(problem, "distill", "step", index)
        real = [problem.space.encode(problem.pixels[problem.labels == label]) for label in range(3)]
        with torch.no_grad():
            split = torch.split(net.embed(torch.cat(real)), [len(part) for part in real])
        means = torch.stack([part.mean(dim=0) for part in split])
        loss = (net.embed(images).reshape(3, problem.ipc, -1).mean(dim=1) - means).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()) / 3)
    return images.detach(), losses


class TestRun:
    """Whole steps."""

    @pytest.mark.parametrize("norm", ["instance", "batch", "layer", "none"])
    def test_five_steps_equal_the_definition(self, norm: str, make_problem: MakeProblem) -> None:
        """Images, momentum, sum of classes and logged loss; batch norm sees all classes at once."""
        method = DistributionMatching(steps=5, lr_images=0.3, momentum=0.5, augment="none", batch_real=1000)
        problem = make_problem(arch=f"convnet-d1-w4-{norm}")
        start = method.prepare(problem, generator(problem.seed, "distill", "prepare"))
        expected, losses = by_definition(problem, method, start, 5)
        images = run(method, problem).images
        assert images is not None

        torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)
        assert pytest.approx(losses, rel=1e-4) == losses_of(method, problem)

    def test_images_of_a_class_move_by_their_own_class_alone(self, make_problem: MakeProblem) -> None:
        """Replacing the real images of class 2 leaves the distilled images of classes 0 and 1 as they were."""
        method, problem = DistributionMatching(steps=2, augment="none", batch_real=1000), make_problem()
        start = (0, method.prepare(problem, generator(0, "start")))
        pixels = problem.pixels.clone()
        pixels[problem.labels == 2] = 255 - pixels[problem.labels == 2]
        first, other = (
            run(method, p, start=start).images for p in (problem, dataclasses.replace(problem, pixels=pixels))
        )
        assert first is not None
        assert other is not None

        assert torch.equal(first[:8], other[:8])
        assert not torch.equal(first[8:], other[8:])

    def test_real_and_distilled_images_get_the_same_augmentation(self, make_problem: MakeProblem) -> None:
        """Distilled images that are the whole class have nothing to move for, whatever family is drawn."""
        whole = make_problem()
        equal = torch.cat([(whole.labels == label).nonzero().flatten()[:7] for label in range(3)])
        problem = make_problem(pixels=whole.pixels[equal], labels=whole.labels[equal], ipc=7)

        assert max(losses_of(DistributionMatching(steps=25), problem)) < 1e-7

    def test_without_the_siamese_draw_the_last_test_would_fail(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Meta-test: augmenting the real side alone is noticed."""
        whole = make_problem()
        equal = torch.cat([(whole.labels == label).nonzero().flatten()[:7] for label in range(3)])
        problem = make_problem(pixels=whole.pixels[equal], labels=whole.labels[equal], ipc=7)
        plain = _means.apply
        monkeypatch.setattr(
            _means, "apply", lambda images, steps: images if images.requires_grad else plain(images, steps)
        )

        assert max(losses_of(DistributionMatching(steps=25), problem)) > 1e-3

    def test_every_step_has_another_net(self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch) -> None:
        """Drawn from the generator of the step; frozen and in train mode."""
        nets: list[Net] = []
        plain = dm.random_net

        def spy(*arguments: object) -> Net:
            nets.append(plain(*arguments))  # type: ignore[arg-type]
            return nets[-1]

        monkeypatch.setattr(dm, "random_net", spy)
        run(DistributionMatching(steps=3), make_problem())
        weights = [next(net.parameters()) for net in nets]

        assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 3
        assert all(net.training for net in nets)
        assert not any(parameter.requires_grad for net in nets for parameter in net.parameters())

    def test_no_gradient_is_recorded_on_the_real_side(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only embeddings of distilled images carry a graph."""
        recorded: list[tuple[int, bool]] = []

        class Watched:
            def __init__(self, net: Net) -> None:
                self.net = net

            def embed(self, images: Tensor) -> Tensor:
                features = self.net.embed(images)
                recorded.append((len(images), features.requires_grad))
                return features

            def modules(self) -> object:
                return self.net.modules()

            def requires_grad_(self, wanted: bool) -> Watched:
                self.net.requires_grad_(wanted)
                return self

        random = dm.random_net
        monkeypatch.setattr(dm, "random_net", lambda *arguments: Watched(random(*arguments)))
        run(DistributionMatching(steps=1, batch_real=6), make_problem(ipc=3))

        assert recorded == [(6, False), (3, True)] * 3

    @pytest.mark.parametrize("arch", ["convnet-d1-w4-instance", "convnet-d1-w4-batch"])
    def test_a_real_batch_is_capped_at_the_class(self, arch: str, make_problem: MakeProblem) -> None:
        """Classes of 9, 12 and 7 images work with the default of 256, also under batch norm."""
        assert len(losses_of(DistributionMatching(steps=3, batch_real=256), make_problem(arch=arch))) == 3

    @pytest.mark.parametrize("arch", ["mlp", "lenet", "convnet-d2-w4-none"])
    def test_any_net_of_the_zoo_can_embed(self, arch: str, make_problem: MakeProblem) -> None:
        """By name, here at 32 x 32 pixels."""
        pixels = functional.interpolate(make_problem().pixels.float(), size=32).to(torch.uint8)
        problem = make_problem(pixels=pixels, arch=arch)

        assert len(losses_of(DistributionMatching(steps=2), problem)) == 2

    def test_matching_lowers_the_loss(self, make_problem: MakeProblem) -> None:
        """From noise, the mean of the last twenty losses is less than half that of the first twenty."""
        losses = losses_of(DistributionMatching(steps=120, init="noise", lr_images=0.5), make_problem())

        assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


class TestOptions:
    """Every option has its effect."""

    def test_real_images_to_start_from_are_of_their_class(self, make_problem: MakeProblem) -> None:
        """Encoded, without repetition."""
        problem = make_problem()
        images = DistributionMatching().prepare(problem, generator(0, "start"))["images"]
        encoded = problem.space.encode(problem.pixels)
        indices = [int((encoded == image).flatten(1).all(dim=1).nonzero()[0]) for image in images]

        assert len(set(indices)) == 12
        assert problem.labels[indices].tolist() == [0] * 4 + [1] * 4 + [2] * 4

    def test_noise_to_start_from_is_standard_normal(self, make_problem: MakeProblem) -> None:
        """2304 values: mean and deviation within five sigma."""
        images = DistributionMatching(init="noise").prepare(make_problem(), generator(0, "start"))["images"]

        assert abs(float(images.mean())) < 5 / 48
        assert abs(float(images.std()) - 1) < 5 / 67

    @pytest.mark.parametrize(
        ("ipc", "classes", "expected"),
        [(1, 10, 1.0), (50, 10, 1.0), (51, 10, 10.0), (1250, 10, 10.0), (125, 100, 1.0), (126, 100, 10.0)],
        ids=["CIFAR-10 ipc 1", "CIFAR-10 ipc 50", "above 50", "CIFAR-10 ipc 1250", "CIFAR-100 ipc 125", "above 125"],
    )
    def test_the_automatic_step_size_is_the_published_one(
        self, ipc: int, classes: int, expected: float, make_problem: MakeProblem
    ) -> None:
        """And it is recorded with the result."""
        labels = torch.arange(classes).repeat_interleave(2)
        names = tuple(str(label) for label in range(classes))
        problem = make_problem(
            pixels=torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels=labels, classes=names
        )
        problem = dataclasses.replace(problem, ipc=ipc)
        state = {"images": torch.zeros(1, 1, 2, 2)}

        assert {"lr_images": expected} == dict(DistributionMatching().finish(problem, state).metrics)
        assert dict(DistributionMatching(lr_images=0.2).finish(problem, state).metrics) == {"lr_images": 0.2}

    @pytest.mark.parametrize(
        "changed",
        [
            {"lr_images": 0.2},
            {"momentum": 0.0},
            {"batch_real": 4},
            {"init": "noise"},
            {"augment": "none"},
            {"steps": 2},
        ],
        ids=lambda changed: next(iter(changed)),
    )
    def test_changing_an_option_changes_the_images(self, changed: dict[str, object], make_problem: MakeProblem) -> None:
        """No option without an effect."""
        base = DistributionMatching(steps=3)
        first, other = (run(m, make_problem()).images for m in (base, dataclasses.replace(base, **changed)))  # type: ignore[arg-type]
        assert first is not None
        assert other is not None

        assert not torch.equal(first, other)

    def test_micro_batches_change_nothing_but_rounding(self, make_problem: MakeProblem) -> None:
        """A whole run with augmentation."""
        base = DistributionMatching(steps=4)
        first, other = (run(m, make_problem()).images for m in (base, dataclasses.replace(base, microbatch=3)))

        torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-5)

    def test_micro_batches_are_refused_under_batch_norm(self, make_problem: MakeProblem) -> None:
        """Before the first step, naming the net and the way out."""
        with pytest.raises(UsageError, match="option 'microbatch' is 3, net 'convnet-d1-w4-batch' has batch norm"):
            run(DistributionMatching(microbatch=3), make_problem(arch="convnet-d1-w4-batch"))

    def test_without_flip_no_image_is_mirrored(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Digits: the flip family is never drawn."""
        drawn: set[str] = set()
        plain = _means.apply

        def spy(images: Tensor, steps: tuple[Step, ...]) -> Tensor:
            drawn.update(step.family for step in steps)
            return plain(images, steps)

        monkeypatch.setattr(_means, "apply", spy)
        run(DistributionMatching(steps=40), make_problem(flip=False))

        assert {"color", "crop", "cutout", "scale", "rotate"} == drawn

    @pytest.mark.parametrize(
        ("arch", "rate", "warned"),
        [
            ("resnet18-instance", None, True),
            ("resnet18-batch", 1.0, True),
            ("resnet18-instance", 0.1, False),
            ("convnet-d1-w4-instance", None, False),
        ],
    )
    def test_resnet_with_a_large_step_is_warned_of(
        self, arch: str, rate: float | None, warned: bool, make_problem: MakeProblem
    ) -> None:
        """Its published failure is below random selection."""
        notes = DistributionMatching(lr_images=rate).notes(make_problem(arch=arch))

        assert warned == bool(notes)
        assert all("lr_images=0.1 or less" in note for note in notes)
