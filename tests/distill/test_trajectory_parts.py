"""Trajectory matching in numbers by hand: waypoints, what is learned by SGD, k-means, the gate, a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddlabel import _plugins
from ddlabel.distill import _initial, _trajectory
from ddlabel.distill._initial import initial_images
from ddlabel.distill._method import Problem, State
from ddlabel.distill._trajectory import TrajectoryMatching
from ddlabel.distill._unroll import Matched, Unrolled, Waypoint, match
from ddlabel.nets._net import Net, build
from ddlabel.seeding import generator

MakeProblem = Callable[..., Problem]
SMALL: dict[str, Any] = {
    "steps": 3, "syn_steps": 6, "expert_epochs": 2, "max_start_epoch": 2, "current_max_start_epoch": None,
    "interval": None, "init": "real", "lr_images": 0.5, "lr_lr": 1e-3, "syn_lr": 0.05, "batch_syn": 5,
}  # fmt: skip
F64 = torch.float64


def method(name: str, **options: Any) -> TrajectoryMatching:
    made: TrajectoryMatching = _plugins.load("distill", name, "METHOD")(**{**SMALL, **options})
    return made


def start(chosen: TrajectoryMatching, problem: Problem) -> State:
    return chosen.prepare(problem, generator(0, "prepare"))


def student(problem: Problem, name: str, **options: Any) -> Unrolled:
    """The student of outer step 0, which starts at epoch 1."""
    chosen = method(name, **{"min_start_epoch": 1, **options})
    return chosen.student(problem, start(chosen, problem), 0, generator(0, "student"))


def checkpoints(problem: Problem, run: Unrolled) -> list[Tensor]:
    """All epochs of the expert whose way the student follows."""
    source = problem.trajectories
    assert source is not None
    for expert in range(len(source)):
        ways = [source.checkpoint(expert, epoch) for epoch in source.epochs]
        if any(torch.equal(run.waypoints[-1].parameters, way) for way in ways):
            return ways
    raise AssertionError("the target is no checkpoint")


class TestWaypoints:
    """AST's epochs in between."""

    @pytest.mark.parametrize(
        ("kind", "weights"), [("none", [1.0]), ("unit", [1.0, 1.0, 1.0]), ("adaptive", [1 / 3, 2 / 3, 1.0])]
    )
    def test_each_has_its_epoch_step_and_weight(
        self, kind: str, weights: list[float], make_problem: MakeProblem
    ) -> None:
        """From epoch 1 by 3 epochs in 7 steps: epochs 2 and 3 after steps 2 and 4, epoch 4 after step 7."""
        problem = make_problem()
        run = student(problem, "ast", intermediate=kind, expert_epochs=3, syn_steps=7, perturb=0.0)
        ways = checkpoints(problem, run)
        expected = [(2, 2), (4, 3), (7, 4)][-len(weights) :]

        assert torch.equal(ways[1], run.start)
        assert weights == pytest.approx([waypoint.weight for waypoint in run.waypoints])
        assert [steps for steps, _epoch in expected] == [waypoint.step for waypoint in run.waypoints]
        for waypoint, (_steps, epoch) in zip(run.waypoints, expected, strict=True):
            assert torch.equal(ways[epoch], waypoint.parameters)

    def test_the_balance_multiplies_the_loss_of_the_student(self, make_problem: MakeProblem) -> None:
        """Start epoch 1 of 2 is the middle: log5(8); off, it is 1."""
        problem = make_problem()

        assert student(problem, "ast", balanced=True).loss_scale == pytest.approx(math.log(8, 5))
        assert student(problem, "ast", balanced=False).loss_scale == 1.0


def test_labels_of_the_teacher_are_those_of_the_target(make_problem: MakeProblem) -> None:
    """Logits of the expert after M more epochs, not where the student starts."""
    problem = make_problem()
    chosen = method("tesla", teacher_label=True, min_start_epoch=1)
    state = start(chosen, problem)
    run = chosen.student(problem, state, 0, generator(0, "student"))
    net = build("convnet-d1-w4-instance", channels=3, size=8, classes=3, generator=generator(0, "net"))
    answers = []
    for epoch in (1, 3):
        nn.utils.vector_to_parameters(checkpoints(problem, run)[epoch], net.parameters())
        answers.append(net(state["images"]).detach())

    assert run.logits is not None
    torch.testing.assert_close(run.logits, answers[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(run.logits, answers[0], atol=1e-3)


def test_two_steps_are_those_of_sgd_with_momentum(make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and step size with 0.5, soft labels with 0.9, each with its own rate, on gradients that are given."""
    rates = {"images": (0.7, 0.5), "lr": (0.001, 0.5), "logits": (0.3, 0.9)}
    chosen = method("datm", threshold=None, lr_images=0.7, lr_lr=0.001, lr_label=0.3)
    problem = make_problem()
    given: list[Matched] = []

    def fake(run: Unrolled, unroll: str, *, tesla_scale: float) -> Matched:
        assert run.logits is not None
        draws = generator(1, "gradient", len(given))
        images, logits = torch.randn(run.images.shape, generator=draws), torch.randn(run.logits.shape, generator=draws)
        given.append(Matched(torch.tensor(0.5), images, logits, torch.randn((), generator=draws)))
        return given[-1]

    monkeypatch.setattr(_trajectory, "match", fake)
    state = start(chosen, problem)
    leaves = {name: state[name].clone().requires_grad_(True) for name in rates}
    groups = [{"params": [leaves[name]], "lr": lr, "momentum": momentum} for name, (lr, momentum) in rates.items()]
    optimizer = torch.optim.SGD(groups)
    for index in range(2):
        state, _metrics = chosen.step(problem, state, index, generator(0, "step", index))
        for name, leaf in leaves.items():
            leaf.grad = getattr(given[-1], name)
        optimizer.step()

    for name, leaf in leaves.items():
        torch.testing.assert_close(state[name], leaf.detach(), rtol=1e-6, atol=1e-7)


def test_the_gate_leaves_momenta_that_are_not_zero(make_problem: MakeProblem) -> None:
    """One step that counts, then one that does not: no entry but the counts moves, and no velocity decays."""
    problem, free = make_problem(), method("datm", threshold=None)
    moved, _metrics = free.step(problem, start(free, problem), 0, generator(0, "step", 0))
    new, metrics = method("datm", threshold=1e-9).step(problem, moved, 1, generator(0, "step", 1))

    assert metrics["gated"] == 1
    for name in ("velocity", "lr_velocity", "logits_velocity"):
        assert float(moved[name].abs().max()) > 0
    assert all(torch.equal(moved[name], new[name]) for name in moved if name != "counts")


class Brightness(nn.Module):
    """Logits are the mean brightness of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean(dim=(2, 3))


def test_kmeans_takes_the_image_next_to_each_centre(make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of three grey images per class, the middle one of each at its centre: levels 20 and 200 win."""
    monkeypatch.setattr(_initial, "_experts", lambda problem: iter([Brightness()]))
    levels = torch.tensor([10, 20, 33, 180, 200, 217] * 3, dtype=torch.uint8)
    pixels = levels.reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    problem = make_problem(pixels=pixels, labels=torch.arange(3).repeat_interleave(6), ipc=2)
    images = initial_images(problem, "kmeans", generator(3, "init"))
    expected = problem.space.encode(pixels[[1, 4]])

    for own in images.split(2):
        order = own.mean(dim=(1, 2, 3)).argsort()
        assert torch.equal(expected, own[order])


class Linear(Net):
    """Logits W x, without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4, dtype=F64))

    def chain(self) -> list[nn.Module]:
        return [nn.Flatten()]

    def gather(self, maps: Tensor) -> Tensor:
        return maps

    def classify(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


@pytest.mark.parametrize("unroll", ["adjoint", "full", "tesla"])
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_one_step_of_a_linear_net_in_closed_form(unroll: str, scale: float) -> None:
    """One step from W with beta = 0.4 on softmax cross-entropy, its gradients derived on paper.

    With e = softmax(W x) - y, a step is W1 = W - (beta s / b) sum_i e_i x_i^T. The loss |W1 - T|^2 / |W - T|^2 has
    D = 2 (W1 - T) / |W - T|^2 as its gradient in W1. Hence in beta it is -(s / b) sum_i e_i^T D x_i; in x_i it is
    -(beta s / b) (D^T e_i + W^T S_i D x_i) with S = diag(p) - p p^T.
    """
    draws = generator(0, "linear")
    images, weight, target = (torch.randn(shape, generator=draws, dtype=F64) for shape in ((2, 4), (3, 4), (3, 4)))
    beta, labels = 0.4, torch.tensor([2, 0])
    run = Unrolled(
        net=Linear(),
        images=images.reshape(2, 1, 2, 2),
        labels=labels,
        logits=None,
        start=weight.flatten(),
        waypoints=(Waypoint(1, target.flatten()),),
        lr=beta,
        batches=(torch.tensor([1, 0]),),
        draws=((),),
        loss_scale=scale,
    )
    probabilities = (weight @ images.T).exp()
    probabilities = (probabilities / probabilities.sum(dim=0)).T
    errors = probabilities - torch.eye(3, dtype=F64)[labels]
    after = weight - beta * scale / 2 * errors.T @ images
    whole = (weight - target).square().sum()
    pull = 2 * (after - target) / whole
    by_image = []
    for x, p, e in zip(images, probabilities, errors, strict=True):
        curved = (p.diag() - p.outer(p)) @ (pull @ x)
        by_image.append(-beta * scale / 2 * (pull.T @ e + weight.T @ curved))
    slope = -scale / 2 * sum(e @ pull @ x for e, x in zip(errors, images, strict=True))
    found = match(run, unroll)

    torch.testing.assert_close(found.loss, (after - target).square().sum() / whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.lr, slope, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.images.flatten(1), torch.stack(by_image), rtol=1e-12, atol=1e-14)
