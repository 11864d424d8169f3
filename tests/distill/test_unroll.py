"""The gradient of a trajectory loss: recursion against automatic differentiation, and that against differences."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddlabel.augment._augment import FAMILIES, Step, draw_step
from ddlabel.distill import _dual
from ddlabel.distill._student import Part, Student
from ddlabel.distill._unroll import Matched, Unrolled, Waypoint, _simulate, images_per_graph, match
from ddlabel.nets._net import build

SMOOTH = "convnet-d1-w4-swish"
NETS = (
    SMOOTH, "convnet-d2-w4", "convnet-d2-w4-bn", "convnet-d2-w8-gn", "convnet-d2-w4-ln", "convnet-d1-w4-none",
    "convnet-d2-w3-nopool", "convnet-d2-w4-max", "mlp",
)  # fmt: skip
BY_HAND = ("convnet-d1-w4", "convnet-d2-w4", "convnet-d3-w2", "convnet-d2-w4-bn", "convnet-d2-w8-gn",
           "convnet-d2-w3-nopool")  # fmt: skip
F64 = torch.float64


def make_run(
    arch: str = SMOOTH,
    *,
    steps: int = 3,
    sizes: tuple[int, ...] = (),
    family: str | None = None,
    soft: bool = True,
    size: int = 8,
    dtype: torch.dtype = F64,
    **changes: object,
) -> Unrolled:
    """A run on five images of three classes, batches of three unless sizes are given."""
    source = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=F64).to(dtype)

    net = build(arch, channels=3, size=size, classes=3, generator=source).to(dtype)
    start = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])
    start = start + 0.05 * normal(len(start))
    counts = sizes or (3,) * steps
    run = Unrolled(
        net=net,
        images=normal(5, 3, size, size),
        labels=torch.tensor([0, 1, 2, 0, 1]),
        logits=normal(5, 3) if soft else None,
        start=start,
        waypoints=(Waypoint(len(counts), start + 0.1 * normal(len(start))),),
        lr=0.3,
        batches=tuple(torch.randperm(5, generator=source)[:count] for count in counts),
        draws=tuple(() if family is None else (draw_step(family, count, size, size, source),) for count in counts),
    )
    return replace(run, **changes)


def keep_deep(error: Tensor) -> Tensor:
    """PAD's depth strategy at 25 %."""
    return (torch.arange(len(error)) >= len(error) // 4).to(error.dtype)


def keep_large(error: Tensor) -> Tensor:
    """PAD's loss strategy at 50 %."""
    return (error >= error.sort().values[len(error) // 2]).to(error.dtype)


def gradients(matched: Matched) -> list[Tensor]:
    return [matched.images, matched.lr, *([] if matched.logits is None else [matched.logits])]


def assert_same(found: Matched, expected: Matched, tolerance: float = 1e-10) -> None:
    pairs = zip([found.loss, *gradients(found)], [expected.loss, *gradients(expected)], strict=True)
    for one, other in pairs:
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert float(other.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize("arch", NETS)
@pytest.mark.parametrize("soft", [True, False])
def test_adjoint_is_full_for_every_kind_of_net(arch: str, soft: bool) -> None:
    run = make_run(arch, soft=soft)
    assert_same(match(run), match(run, "full"))


@pytest.mark.parametrize("arch", [SMOOTH, "convnet-d2-w4"])
@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1},
        {"steps": 7},
        {"sizes": (1, 4, 4, 1, 4)},
        {"momentum": 0.9},
        {"momentum": 0.9, "steps": 1},
        {"mask": keep_deep},
        {"mask": keep_large},
        {"loss_scale": 1.29},
        {"microbatch": 1},
        {"microbatch": 2, "momentum": 0.5},
        {"lr": torch.tensor(0.05, dtype=F64)},
    ],
)
def test_adjoint_is_full_for_every_variant(arch: str, changes: dict[str, object]) -> None:
    run = make_run(arch, **changes)  # type: ignore[arg-type]
    assert_same(match(run), match(run, "full"))


@pytest.mark.parametrize("mask", [None, keep_large])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adjoint_is_full_with_waypoints_on_the_way(mask: Callable[[Tensor], Tensor] | None, momentum: float) -> None:
    run = make_run("convnet-d2-w4", steps=4, mask=mask, momentum=momentum, microbatch=2)
    source = torch.Generator().manual_seed(1)
    between = [run.start + torch.randn(len(run.start), generator=source, dtype=F64) * 0.1 for _ in range(2)]
    run = replace(run, waypoints=(Waypoint(1, between[0], 0.5), Waypoint(2, between[1], 2.0), *run.waypoints))
    assert_same(match(run), match(run, "full"))


@pytest.mark.parametrize("family", [*FAMILIES, "resized-crop"])
def test_adjoint_replays_every_augmentation_in_microbatches(family: str) -> None:
    run = make_run("convnet-d2-w4", family=family)
    whole = match(replace(run, microbatch=3), "full")
    assert_same(match(replace(run, microbatch=2)), whole)
    assert float((match(replace(run, draws=((),) * 3)).loss - whole.loss).abs()) > 1e-12


def test_shared_augmentation_parameters_are_not_sliced() -> None:
    step = Step("color", {name: torch.tensor([0.3]) for name in ("brightness", "saturation", "contrast")})
    run = make_run(draws=((step,),) * 3)
    assert_same(match(replace(run, microbatch=2)), match(replace(run, microbatch=3), "full"))


@pytest.mark.parametrize("unroll", ["adjoint", "full"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradients_are_those_of_central_differences(unroll: str, momentum: float) -> None:
    run = make_run(momentum=momentum, family="scale")
    matched, source = match(run, unroll), torch.Generator().manual_seed(2)
    assert run.logits is not None
    assert matched.logits is not None
    shifts: list[tuple[str, Tensor, Tensor]] = [
        ("images", run.images, matched.images),
        ("logits", run.logits, matched.logits),
        ("lr", torch.tensor(run.lr, dtype=F64), matched.lr),
    ]
    for name, value, gradient in shifts:
        for _direction in range(3):
            along = torch.randn(value.shape, generator=source, dtype=F64)
            ends = [match(replace(run, **{name: value + step * along}), unroll).loss for step in (1e-5, -1e-5)]
            slope = float((ends[0] - ends[1]) / 2e-5)
            assert slope == pytest.approx(float((gradient * along).sum()), rel=1e-6, abs=1e-9)


def test_the_loss_is_one_without_steps_of_length_and_zero_on_arrival() -> None:
    run = make_run("convnet-d2-w4")
    assert float(match(replace(run, lr=0.0)).loss) == 1.0
    path = _simulate(run, Student(run.net, by_hand=True))
    arrived = match(replace(run, waypoints=(Waypoint(3, path[-1]),)))
    assert float(arrived.loss) == 0.0
    assert all(float(gradient.abs().max()) == 0.0 for gradient in gradients(arrived))


def test_images_in_no_batch_get_no_gradient() -> None:
    run = make_run(batches=(torch.tensor([0, 1]), torch.tensor([3, 1]), torch.tensor([0, 3])))
    matched = match(run)
    assert matched.logits is not None
    for gradient in (matched.images, matched.logits):
        assert torch.equal(gradient.flatten(1).abs().amax(dim=1) > 0, torch.tensor([True, True, False, True, False]))


def test_one_step_on_a_quadratic_has_its_closed_form() -> None:
    """At beta = 0 the images' gradient is 0 and that of beta is 2 <theta_0 - theta*, -g> / D0."""
    run = make_run(steps=1, lr=0.0)
    matched, away = match(run), run.start - run.waypoints[0].parameters
    student = Student(run.net, by_hand=False)
    assert run.logits is not None
    rows = run.batches[0]
    gradient = student.gradient(run.start, [Part(run.images[rows], run.logits[rows], (), 1.0)])
    assert float(matched.images.abs().max()) == 0.0
    assert float(matched.lr) == pytest.approx(float(-2 * away @ gradient / away.square().sum()), rel=1e-12)


def test_tesla_is_exact_for_one_step_and_scales_as_told() -> None:
    run = make_run(steps=1)
    assert_same(match(run, "tesla"), match(run, "full"))
    run = make_run(steps=4)
    whole, half = match(run, "tesla"), match(run, "tesla", tesla_scale=0.5)
    assert whole.logits is not None
    assert half.logits is not None
    assert torch.equal(half.images * 2, whole.images)
    assert torch.equal(half.logits * 2, whole.logits)
    assert torch.equal(half.lr, whole.lr)
    assert torch.equal(half.loss, whole.loss)


def test_tesla_is_the_formula_at_constant_parameters() -> None:
    """dX_i = A^T dg_i/dX / D0 with A = 2 beta (theta* - theta_0) + 2 beta^2 G: the formula, term by term."""
    run = make_run(steps=3)
    assert run.logits is not None
    student, expert = Student(run.net, by_hand=False), run.waypoints[0].parameters
    path = _simulate(run, student)
    total = (path[0] - path[-1]) / 0.3
    factor = 2 * 0.3 * (expert - run.start) + 2 * 0.3**2 * total
    images = run.images.clone().requires_grad_(True)
    product = torch.zeros((), dtype=F64)
    for step, rows in enumerate(run.batches):
        leaf = path[step].clone().requires_grad_(True)
        loss = student.loss(leaf, Part(images[rows], run.logits[rows], (), 1.0))
        product = product + factor @ torch.autograd.grad(loss, leaf, create_graph=True)[0]
    (expected,) = torch.autograd.grad(product / (run.start - expert).square().sum(), images)
    torch.testing.assert_close(match(run, "tesla").images, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_tesla_turns_away_from_the_gradient_as_beta_grows() -> None:
    def cosine(rate: float) -> float:
        run = make_run("convnet-d2-w4", steps=5, lr=rate)
        pair = match(run, "tesla").images.flatten(), match(run).images.flatten()
        return float(torch.cosine_similarity(*pair, dim=0))

    cosines = [cosine(rate) for rate in (0.01, 0.1, 0.3, 1.0)]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] > 0.999
    assert cosines[-1] < 0.95


@pytest.mark.parametrize("arch", BY_HAND)
@pytest.mark.parametrize("size", [8, 11])
def test_derivatives_by_hand_are_the_automatic_ones(arch: str, size: int) -> None:
    run, source = make_run(arch, size=size), torch.Generator().manual_seed(3)
    assert _dual.fits(run.net)
    assert run.logits is not None
    direction = torch.randn(len(run.start), generator=source, dtype=F64)
    part = Part(run.images, run.logits, (), 0.7)
    by_hand, automatic = Student(run.net, by_hand=True), Student(run.net, by_hand=False)
    pairs = [(by_hand.gradient(run.start, [part]), automatic.gradient(run.start, [part]))]
    (one,) = by_hand.pulls(run.start, [part], direction, curvature=True)
    (other,) = automatic.pulls(run.start, [part], direction, curvature=True)
    for name in ("slope", "parameters", "images", "target"):
        pairs.append((getattr(one, name), getattr(other, name)))
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    (without,) = by_hand.pulls(run.start, [part], direction, curvature=False)
    assert without.parameters is None
    assert torch.equal(without.images, one.images)


@pytest.mark.parametrize("arch", [SMOOTH, "convnet-d2-w4-max", "convnet-d2-w4-ln", "convnet-d2-w4-none", "mlp"])
def test_other_nets_are_left_to_automatic_differentiation(arch: str) -> None:
    assert not _dual.fits(make_run(arch).net)


@pytest.mark.parametrize("arch", ["convnet-d2-w4", "convnet-d2-w4-bn", "convnet-d2-w4-bn-swish"])
@pytest.mark.parametrize("unroll", ["adjoint", "full", "tesla"])
def test_a_run_repeats_bit_for_bit_and_leaves_everything_as_it_was(arch: str, unroll: str) -> None:
    run = make_run(arch, family="rotate", dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    held = [run.images.clone(), run.start.clone(), torch.get_rng_state()]
    first, second = match(run, unroll), match(run, unroll)
    assert torch.equal(first.loss, second.loss)
    assert all(torch.equal(one, other) for one, other in zip(gradients(first), gradients(second), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.net.state_dict().items())
    now = [run.images, run.start, torch.get_rng_state()]
    assert all(torch.equal(one, other) for one, other in zip(held, now, strict=True))
    assert all(parameter.grad is None for parameter in run.net.parameters())


def test_replay_gives_bit_identical_parameters() -> None:
    run = make_run("convnet-d2-w4", family="color", dtype=torch.float32)
    paths = [_simulate(run, Student(run.net, by_hand=True)) for _again in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*paths, strict=True))


def test_float32_stays_close_to_float64() -> None:
    exact = match(make_run("convnet-d2-w4", steps=5))
    single = match(make_run("convnet-d2-w4", steps=5, dtype=torch.float32))
    for one, other in zip(gradients(single), gradients(exact), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).abs().max() / other.abs().max()) < 1e-4


def test_an_unknown_unroll_is_refused() -> None:
    with pytest.raises(ValueError, match="unroll is 'exact', expected one of adjoint, full, tesla"):
        match(make_run(), "exact")


MEMORY = """
import torch
from ddlabel.distill._unroll import Unrolled, Waypoint, match
from ddlabel.nets._net import build
torch.set_num_threads(1)
source = torch.Generator().manual_seed(0)
net = build("convnet-d2-w16", channels=3, size=32, classes=10, generator=source)
start = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])
def run(steps):
    return Unrolled(net=net, images=torch.randn(16, 3, 32, 32, generator=source), labels=torch.arange(16) % 10,
        logits=None, start=start, waypoints=(Waypoint(steps, start + 0.01),), lr=0.01, microbatch=4,
        batches=(torch.arange(16),) * steps, draws=((),) * steps)
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
for unroll in ("adjoint", "full"):
    match(run(2), unroll)
    before = peak()
    match(run(24), unroll)
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of a process's own memory")
def test_memory_of_the_adjoint_does_not_grow_with_steps() -> None:
    """22 steps more are 22 P floats, two megabytes; their graphs are some hundred."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    adjoint, full = map(float, done.stdout.split())
    assert adjoint < 15
    assert full > 60


@pytest.mark.parametrize(
    ("mixes", "batch", "microbatch", "device", "expected"),
    [
        (True, 500, 4, "cpu", 500),
        (False, 500, 4, "cpu", 4),
        (False, 500, None, "cpu", 32),
        (False, 500, None, "meta", 256),
        (False, 10, 40, "cpu", 10),
    ],
)
def test_a_graph_holds_a_batch_at_most(
    mixes: bool, batch: int, microbatch: int | None, device: str, expected: int
) -> None:
    """All of it where batch norm couples its images; else what the user chose, or what suits the device."""
    assert expected == images_per_graph(mixes, batch, microbatch, torch.device(device))


def test_the_parts_of_a_step_are_of_that_many_images() -> None:
    """Batch norm takes three of three in spite of a micro-batch."""
    for arch, expected in (("convnet-d1-w4-bn", [3]), ("convnet-d1-w4", [2, 1])):
        run = make_run(arch, microbatch=2)
        assert expected == [len(part.images) for _rows, part in run.parts(0, run.images, run.target())]
