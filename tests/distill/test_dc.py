"""Gradient matching against its definition: one graph of all classes, torch's own SGD, a table written out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddlabel.distill import dc
from ddlabel.distill._gradients import distance
from ddlabel.distill._method import Problem, run
from ddlabel.distill.dc import GradientMatching, loops
from ddlabel.distill.dsa import SiameseGradientMatching
from ddlabel.errors import UsageError
from ddlabel.events import Event
from ddlabel.nets._net import Net
from ddlabel.nets._net import build as build_net
from ddlabel.seeding import generator

MakeProblem = Callable[..., Problem]
QUICK: dict[str, Any] = {"steps": 2, "outer": 3, "inner": 2, "batch_real": 6}


def quick(**changes: Any) -> GradientMatching:
    return GradientMatching(**(QUICK | changes))


def images_of(method: GradientMatching, problem: Problem) -> Tensor:
    images = run(method, problem).images
    assert images is not None
    return images


def losses_of(method: GradientMatching, problem: Problem) -> list[float]:
    events: list[Event] = []
    run(method, problem, on_event=events.append)
    return [event.metrics["loss"] for event in events]


def train_by_definition(net: Net, images: Tensor, labels: Tensor, epochs: int, lr: float) -> None:
    """All images in one batch; their order changes rounding only."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    for _epoch in range(epochs):
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()


def by_definition(problem: Problem, method: GradientMatching, images: Tensor) -> tuple[Tensor, list[float]]:
    """DC with whole classes as real batches: the sum over classes of the distances, one backward pass."""
    images = images.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=method.lr_images or 0.1, momentum=method.momentum)
    labels = torch.arange(3).repeat_interleave(problem.ipc)
    real = [problem.space.encode(problem.pixels[problem.labels == label]) for label in range(3)]
    losses = []
    for index in range(method.steps):
        source = generator(problem.seed, "distill", "step", index)
        net = build_net(problem.arch, channels=3, size=8, classes=3, generator=source)
        parameters, total = list(net.parameters()), 0.0
        assert method.outer is not None
        for turn in range(method.outer):
            net.train()
            if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
                net(torch.cat(real))
                for module in net.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eval()
            loss = torch.zeros(())
            for label in range(3):
                target = torch.full((len(real[label]),), label)
                wanted = torch.autograd.grad(functional.cross_entropy(net(real[label]), target), parameters)
                own = labels == label
                given = torch.autograd.grad(
                    functional.cross_entropy(net(images[own]), labels[own]), parameters, create_graph=True
                )
                loss = loss + distance(given, wanted, method.distance)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
            if turn + 1 < method.outer:
                assert method.inner is not None
                train_by_definition(net, images.detach(), labels, method.inner, method.lr_net)
        losses.append(total / (3 * method.outer))
    return images.detach(), losses


class TestRun:
    """Whole steps."""

    @pytest.mark.parametrize("distance", ["ours", "mse", "cos"])
    @pytest.mark.parametrize("norm", ["instance", "batch", "layer", "none"])
    def test_two_steps_equal_the_definition(self, norm: str, distance: str, make_problem: MakeProblem) -> None:
        """Images, momentum across loops and steps, sum of classes, training between loops, logged loss."""
        method = quick(batch_real=1000, lr_images=0.3, lr_net=0.05, distance=distance)
        problem = make_problem(arch=f"convnet-d1-w4-{norm}-swish")
        start = method.prepare(problem, generator(problem.seed, "distill", "prepare"))["images"]
        expected, losses = by_definition(problem, method, start)

        torch.testing.assert_close(images_of(method, problem), expected, rtol=1e-3, atol=1e-4)
        assert pytest.approx(losses, rel=1e-4) == losses_of(method, problem)

    def test_micro_batches_change_nothing_but_rounding(self, make_problem: MakeProblem) -> None:
        """Also under batch norm, whose statistics are fixed while gradients are matched."""
        for arch in ("convnet-d1-w4-instance", "convnet-d1-w4-batch"):
            problem = make_problem(arch=arch)
            first, other = (images_of(quick(microbatch=size), problem) for size in (4, 3))

            torch.testing.assert_close(first, other, rtol=1e-3, atol=1e-4)

    def test_matching_lowers_the_distance(self, make_problem: MakeProblem) -> None:
        """From noise, the last ten losses are below four fifths of the first ten."""
        method = GradientMatching(steps=60, outer=1, inner=1, lr_images=1.0, batch_real=100)
        losses = losses_of(method, make_problem())

        assert sum(losses[-10:]) < 0.8 * sum(losses[:10])

    @pytest.mark.parametrize(("outer", "inner"), [(1, 5), (2, 1), (3, 4)])
    def test_loops_and_epochs_are_counted(
        self, outer: int, inner: int, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`outer` matches of three classes; `inner` epochs between them, none after the last; 12 images by 5."""
        seen: list[str] = []
        match, loss = dc.match_gradients, functional.cross_entropy

        def spy(*arguments: Any, **named: Any) -> Any:
            seen.append("match")
            monkeypatch.setattr(functional, "cross_entropy", loss)
            result = match(*arguments, **named)
            monkeypatch.setattr(functional, "cross_entropy", count)
            return result

        def count(logits: Tensor, labels: Tensor) -> Tensor:
            if len(set(labels.tolist())) > 1 or len(labels) in {5, 2}:
                seen.append("train")
            return loss(logits, labels)

        monkeypatch.setattr(dc, "match_gradients", spy)
        monkeypatch.setattr(functional, "cross_entropy", count)
        run(GradientMatching(steps=1, outer=outer, inner=inner, batch_real=4, batch_train=5), make_problem())

        assert seen == (["match"] * 3 + ["train"] * 3 * inner) * (outer - 1) + ["match"] * 3

    def test_a_real_batch_is_capped_at_the_class(self, make_problem: MakeProblem) -> None:
        """Classes of 9, 12 and 7 images work with the defaults of 256, and 16 for batch norm."""
        for arch in ("convnet-d1-w4-instance", "convnet-d1-w4-batch"):
            assert len(losses_of(quick(batch_real=256), make_problem(arch=arch))) == 2

    def test_images_of_a_class_move_by_their_own_class_alone(self, make_problem: MakeProblem) -> None:
        """In the first loop; afterwards the net has seen all of them."""
        method, problem = quick(steps=1, outer=1, batch_real=1000), make_problem()
        pixels = problem.pixels.clone()
        pixels[problem.labels == 2] = 255 - pixels[problem.labels == 2]
        first, other = (images_of(method, p) for p in (problem, dataclasses.replace(problem, pixels=pixels)))

        assert torch.equal(first[:8], other[:8])
        assert not torch.equal(first[8:], other[8:])

    def test_leaving_out_shallow_rows_keeps_the_gradient_of_the_others(self, make_problem: MakeProblem) -> None:
        """Distances of fewer rows are smaller, and the images move otherwise."""
        whole, part = (losses_of(quick(steps=1, outer=1, mask_shallow=alpha), make_problem()) for alpha in (0, 0.2))

        assert 0 < part[0] < whole[0]


class TestLoops:
    """The published table, and ours for other budgets."""

    @pytest.mark.parametrize(
        ("ipc", "outer", "inner"),
        [(1, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10)],
    )
    def test_published_budgets(self, ipc: int, outer: int, inner: int, make_problem: MakeProblem) -> None:
        """Without a note."""
        assert (outer, inner) == loops(ipc)
        assert GradientMatching().notes(make_problem(ipc=ipc)) == ()

    @pytest.mark.parametrize(("ipc", "outer", "inner"), [(2, 2, 250), (5, 5, 100), (100, 50, 10), (500, 50, 10)])
    def test_other_budgets_follow_our_rule_and_say_so(
        self, ipc: int, outer: int, inner: int, make_problem: MakeProblem
    ) -> None:
        """The reference stops there."""
        assert (outer, inner) == loops(ipc)
        (note,) = GradientMatching().notes(make_problem(ipc=ipc))
        assert f"ipc {ipc}: taking outer={outer} inner={inner}" in note

    def test_options_come_before_the_table(self, make_problem: MakeProblem) -> None:
        """Each for itself; what was taken is recorded."""
        assert loops(10, outer=3) == (3, 50)
        assert loops(10, inner=3) == (10, 3)
        assert loops(7, outer=2, inner=3) == (2, 3)
        assert GradientMatching(outer=2, inner=3).notes(make_problem(ipc=7)) == ()
        metrics = run(quick(), make_problem()).metrics
        assert metrics == {"lr_images": 0.1, "outer": 3, "inner": 2}


class TestOptions:
    """Every option has its effect."""

    @pytest.mark.parametrize(
        "changed",
        [
            {"lr_images": 0.2},
            {"momentum": 0.0},
            {"lr_net": 0.5},
            {"batch_real": 4},
            {"batch_train": 5},
            {"outer": 2},
            {"inner": 1},
            {"distance": "mse"},
            {"distance": "cos"},
            {"init": "real"},
            {"augment": "dsa"},
            {"mask_shallow": 0.3},
            {"steps": 1},
        ],
        ids=lambda changed: "=".join(map(str, *changed.items())),
    )
    def test_changing_an_option_changes_the_images(self, changed: dict[str, Any], make_problem: MakeProblem) -> None:
        """No option without an effect."""
        assert not torch.equal(images_of(quick(), make_problem()), images_of(quick(**changed), make_problem()))

    @pytest.mark.parametrize(("arch", "expected"), [("convnet-d1-w4-instance", 0.1), ("mlp", 0.01), ("lenet", 0.1)])
    def test_the_automatic_step_size_is_the_published_one(
        self, arch: str, expected: float, make_problem: MakeProblem
    ) -> None:
        """And recorded with the result."""
        problem, state = make_problem(arch=arch), {"images": torch.zeros(1)}

        assert GradientMatching().finish(problem, state).metrics["lr_images"] == expected
        assert GradientMatching(lr_images=3.0).finish(problem, state).metrics["lr_images"] == 3.0

    def test_a_mask_with_a_distance_without_rows_is_refused(self, make_problem: MakeProblem) -> None:
        """Both sides are named."""
        with pytest.raises(UsageError, match=r"'mask_shallow' is 0\.2, but distance 'mse' has no rows"):
            run(quick(mask_shallow=0.2, distance="mse"), make_problem())

    def test_a_mask_that_leaves_nothing_is_refused_before_the_first_step(self, make_problem: MakeProblem) -> None:
        """Biases alone are no rows."""
        with pytest.raises(UsageError, match="leaves no row"):
            quick(mask_shallow=0.9999).prepare(make_problem(), generator(0))


class TestSiamese:
    """DSA as it differs from DC."""

    def test_without_augmentation_and_from_the_same_images_dsa_is_dc(self, make_problem: MakeProblem) -> None:
        """Bit for bit."""
        dsa = SiameseGradientMatching(**QUICK, augment="none")

        assert torch.equal(images_of(dsa, make_problem()), images_of(quick(init="real"), make_problem()))

    def test_real_and_distilled_images_get_the_same_augmentation(self, make_problem: MakeProblem) -> None:
        """Distilled images that are the whole class have nothing to move for, whatever family is drawn."""
        whole = make_problem()
        equal = torch.cat([(whole.labels == label).nonzero().flatten()[:7] for label in range(3)])
        problem = make_problem(pixels=whole.pixels[equal], labels=whole.labels[equal], ipc=7)
        method = SiameseGradientMatching(steps=25, outer=1, inner=1, distance="mse")

        assert max(losses_of(method, problem)) < 1e-7

    def test_without_the_siamese_draw_the_last_test_would_fail(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Meta-test: augmenting the real side alone is noticed."""
        whole = make_problem()
        equal = torch.cat([(whole.labels == label).nonzero().flatten()[:7] for label in range(3)])
        problem = make_problem(pixels=whole.pixels[equal], labels=whole.labels[equal], ipc=7)
        monkeypatch.setattr("ddlabel.distill._gradients.apply", lambda images, steps: images)
        method = SiameseGradientMatching(steps=25, outer=1, inner=1, distance="mse")

        assert max(losses_of(method, problem)) > 1e-4

    def test_the_net_is_trained_with_an_augmentation_per_image(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Parameters as long as the batch, in every inner step."""
        lengths: list[int] = []
        plain = dc.apply

        def spy(images: Tensor, steps: Any) -> Tensor:
            lengths.extend(len(value) for step in steps for value in step.values.values())
            return plain(images, steps)

        monkeypatch.setattr(dc, "apply", spy)
        run(SiameseGradientMatching(**QUICK), make_problem())

        assert set(lengths) == {12}
