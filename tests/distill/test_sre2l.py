"""SRe2L on a net that a few steps taught three textures: what is recovered, in which batches, against which numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddlabel.distill._method import Problem, State, run
from ddlabel.distill._norms import NormStatistics, class_statistics, refitted
from ddlabel.distill._real import encoded
from ddlabel.distill.sre2l import METHOD, REFERENCE_RATIO, _total_variation, preset_of
from ddlabel.errors import UsageError
from ddlabel.nets._net import Net, build
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.zca import fit_zca

from .conftest import trained_nets
from .test_memory import Counting

MakeProblem = Callable[..., Problem]
SPACE = Space("normalised", (0.5,) * 3, (0.25,) * 3)
SIDE = 16


def textures(count: int) -> tuple[Tensor, Tensor]:
    """(3 count, 3, 16, 16) uint8 stripes along one axis or the other, or a smooth spot, each with its noise."""
    labels = torch.arange(3).repeat_interleave(count)
    place = torch.arange(SIDE)
    waves = 70 * torch.sin(place * math.pi / 2)
    spot = 140 * torch.exp(-((place - 7.5) ** 2) / 20)
    shapes = torch.stack([waves[:, None].expand(SIDE, SIDE), waves.expand(SIDE, SIDE), spot[:, None] * spot / 140])
    noise = torch.randint(-40, 41, (3 * count, 3, SIDE, SIDE), generator=generator(0, "noise"))
    return (110 + shapes[labels][:, None] + noise).clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def net() -> Net:
    """A ConvNet with batch norm after 50 steps; it knows the textures."""
    pixels, labels = textures(100)
    images = SPACE.encode(pixels)
    made = build("convnet-d2-w16-bn", channels=3, size=SIDE, classes=3, generator=generator(0, "net"))
    steps = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
    draws = generator(0, "batches")
    for _ in range(50):
        rows = torch.randint(len(labels), (64,), generator=draws)
        steps.zero_grad()
        functional.cross_entropy(made(images[rows]), labels[rows]).backward()
        steps.step()
    return made.eval().requires_grad_(False)


@pytest.fixture
def textured(make_problem: MakeProblem, net: Net) -> MakeProblem:
    """The problem of the textures, with any field changed."""
    pixels, labels = textures(100)
    fields: dict[str, Any] = {"pixels": pixels, "labels": labels, "space": SPACE, "backbones": (net,), "ipc": 2}
    return lambda **changes: make_problem(**(fields | changes))


def trace(method: Any, problem: Problem) -> tuple[list[dict[str, float]], Any]:
    """Metrics of every step, and the result."""
    metrics: list[dict[str, float]] = []
    result = run(method, problem, on_event=lambda event: metrics.append(dict(event.metrics)) if event.total else None)
    return metrics, result


def test_real_images_agree_with_the_statistics_far_better_than_noise(textured: MakeProblem, net: Net) -> None:
    """R_bn of 256 training images against normal noise."""
    rows = torch.randperm(300, generator=generator(0, "rows"))[:256]
    statistics, images = NormStatistics(net), encoded(textured(), rows)
    noise = torch.randn(images.shape, generator=generator(0, "test"))
    real, far = (float(statistics.distance(statistics.seen(x)[1], statistics.running())) for x in (images, noise))

    assert real / far < 0.2


@pytest.mark.parametrize("batching", ["index", "class"])
def test_recovered_images_become_what_the_net_knows(batching: str, textured: MakeProblem) -> None:
    """In 50 steps both terms fall, pixels stay possible, and the last iterates are what is stored."""
    problem, states = textured(), []
    method = METHOD(steps=50, lr_images=0.2, batching=batching)
    metrics: list[dict[str, float]] = []
    result = run(
        method,
        problem,
        on_event=lambda event: metrics.append(dict(event.metrics)) if event.total else None,
        on_checkpoint=lambda done, state: states.append(state),
    )
    assert result.pixels is not None
    last = {
        tuple(rows.tolist()): states[50 * number + 49]["batch"] for number, rows in enumerate(method.batches(problem))
    }
    first, end = metrics[0], metrics[49]

    assert end["ce"] < 0.5 * first["ce"]
    assert end["r_bn"] < 0.5 * first["r_bn"]
    assert all(torch.equal(SPACE.to_pixels(batch), result.pixels[list(rows)]) for rows, batch in last.items())
    assert all(bool(((SPACE.decode(x) > -1e-6) & (SPACE.decode(x) < 1 + 1e-6)).all()) for x in last.values())
    assert problem.backbones[0](SPACE.encode(result.pixels)).argmax(dim=1).tolist() == result.labels.tolist()
    assert result.metrics["ce"] < result.metrics["ce_noise"]
    assert result.metrics["r_bn"] < result.metrics["r_bn_noise"]


def test_metrics_are_the_terms_of_the_loss(textured: MakeProblem) -> None:
    """loss = ce + weight * r_bn + priors, written out for the first step of each batch."""
    problem = textured(ipc=1)
    method = METHOD(steps=1, roll_max=0, crop=False, bn_weight=0.03, tv_weight=0.01, l2_weight=0.02)
    (metrics,), result = trace(method, problem)
    images = torch.randn(3, 3, SIDE, SIDE, generator=generator(0, "distill", "step", 0))
    statistics = NormStatistics(problem.backbones[0])
    logits, found = statistics.seen(images)
    ce = float(functional.cross_entropy(logits, torch.arange(3)))
    r_bn = float(statistics.distance(found, statistics.running()))
    norms = float(images.flatten(1).square().sum(dim=1).sqrt().mean())

    assert metrics["ce"] == pytest.approx(ce, rel=1e-5)
    assert metrics["r_bn"] == pytest.approx(r_bn, rel=1e-5)
    priors = 0.01 * float(_total_variation(images)) + 0.02 * norms
    assert metrics["loss"] == pytest.approx(ce + 0.03 * r_bn + priors, rel=1e-5)
    assert result.metrics["bn_weight"] == pytest.approx(0.03)


def test_total_variation_is_four_norms() -> None:
    """Against loops over neighbours."""
    images = torch.randn(2, 1, 4, 5, generator=generator(0, "images"), dtype=torch.float64)
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        squares = 0.0
        for row in range(4 - down):
            for column in range(5):
                if 0 <= column + right < 5:
                    squares += float(
                        (images[:, 0, row + down, column + right] - images[:, 0, row, column]).square().sum()
                    )
        total += math.sqrt(squares)

    assert float(_total_variation(images)) == pytest.approx(total, rel=1e-12)


def test_batches_are_of_all_classes_or_of_one(textured: MakeProblem) -> None:
    """Image p of up to `batch` classes; or a class, in parts where it is larger."""
    problem = textured(ipc=3)
    rows = {
        (batching, batch): [part.tolist() for part in METHOD(batching=batching, batch=batch).batches(problem)]
        for batching in ("index", "class")
        for batch in (100, 2)
    }

    assert [[0, 3, 6], [1, 4, 7], [2, 5, 8]] == rows["index", 100]
    assert [[0, 3], [6], [1, 4], [7], [2, 5], [8]] == rows["index", 2]
    assert [[0, 1, 2], [3, 4, 5], [6, 7, 8]] == rows["class", 100]
    assert [[0, 1], [2], [3, 4], [5], [6, 7], [8]] == rows["class", 2]


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (32, (1000, 0.25, 0.01, False, 0, 4)),
        (64, (4000, 0.1, 1.0, True, -4, 4)),
        (224, (4000, 0.25, 0.01, True, 0, 32)),
    ],
)
def test_settings_left_to_auto_are_the_published_ones(side: int, expected: tuple[Any, ...]) -> None:
    """T, step size, weight, crops and shifts of CIFAR-100, Tiny-ImageNet and ImageNet-1K."""
    preset = preset_of(side)

    assert expected == (
        preset.steps, preset.lr_images, preset.bn_weight, preset.crop, preset.roll_min, preset.roll_max
    )  # fmt: skip


@pytest.mark.parametrize(
    ("curriculum", "end", "expected"),
    [
        ("none", None, (0.08, 0.08, 0.08, 0.08)),
        ("cosine", None, (1.0, 0.08 + 0.92 * (1 + math.sqrt(0.5)) / 2, 0.54, 0.08)),
        ("cosine", 0.5, (1.0, 0.54, 0.08, 0.08)),
        ("linear", None, (1.0, 0.77, 0.54, 0.08)),
        ("step", None, (1.0, 1.0, 0.08, 0.08)),
    ],
)
def test_a_curriculum_lets_crops_shrink(curriculum: str, end: float | None, expected: tuple[float, ...]) -> None:
    """a(t) at the start, a quarter, half, and the end."""
    method = METHOD(curriculum=curriculum, curriculum_end=end)

    assert list(expected) == pytest.approx([method.least_area(done) for done in (0, 0.25, 0.5, 1)])


def test_one_crop_and_one_shift_for_the_whole_batch(textured: MakeProblem) -> None:
    """Equal images stay equal; what the crop leaves out has no gradient; digits are never mirrored."""
    problem = textured(flip=False)
    method = METHOD(crop=True, roll_min=0, roll_max=0, steps=10)
    images = (
        torch.rand(1, 3, SIDE, SIDE, generator=generator(0, "x")).expand(4, -1, -1, -1).clone().requires_grad_(True)
    )
    ramp = torch.arange(SIDE, dtype=torch.float32).expand(1, 1, SIDE, SIDE)
    for draw in range(20):
        seen = method.augmented(problem, images, 3, generator(draw, "draw"))
        (gradient,) = torch.autograd.grad(seen.sum(), images)
        inside = gradient[0, 0] > 0
        rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()

        assert all(torch.equal(seen[0], other) for other in seen[1:])
        assert int(inside.sum()) == len(rows) * len(columns) == int(inside[rows[0] : rows[-1] + 1].sum())
        assert bool((method.augmented(problem, ramp, 3, generator(draw, "draw")).diff(dim=3) >= -1e-5).all())


def test_an_automatic_weight_balances_the_terms_on_noise(textured: MakeProblem) -> None:
    """As a ResNet-18 does under the published weight; the numbers are in the result."""
    _, result = trace(METHOD(steps=1, bn_weight="auto"), textured(ipc=1))
    numbers = result.metrics

    assert numbers["bn_weight"] * numbers["r_bn_noise"] / numbers["ce_noise"] == pytest.approx(0.01 * REFERENCE_RATIO)
    assert numbers["r_bn_noise"] > 0


def test_shallow_batch_norms_can_be_left_out(textured: MakeProblem, net: Net) -> None:
    """Half of two is the first one; less than one is none, which is said."""
    problem = textured(ipc=1)
    noise = torch.randn(3, 3, SIDE, SIDE, generator=generator(0, "distill", "step", 0))
    deep = NormStatistics(net, skipped=1)
    wanted = float(deep.distance(deep.seen(noise)[1], deep.running()))
    (metrics,), _ = trace(METHOD(steps=1, roll_max=0, mask_shallow=0.5), problem)

    assert metrics["r_bn"] == pytest.approx(wanted, rel=1e-5)
    assert any("none is left out" in note for note in METHOD(mask_shallow=0.4).notes(problem))
    assert not any("none is left out" in note for note in METHOD(mask_shallow=0.5).notes(problem))


def test_statistics_of_filtered_images_are_estimated_anew(textured: MakeProblem, net: Net) -> None:
    """By default where the images were filtered; then the net normalises with them too."""
    plain, filtered = textured(), textured(filtered=True)

    def norms(method: Any, problem: Problem) -> Tensor:
        return method.prepare(problem, generator(0, "p"))["norms"]

    own = refitted(net, plain, generator(0, "p"))
    assert torch.equal(NormStatistics(net).running(), norms(METHOD(), plain))
    assert torch.equal(own, norms(METHOD(), filtered))
    assert torch.equal(own, norms(METHOD(bn_stats="data"), plain))
    assert torch.equal(NormStatistics(net).running(), norms(METHOD(bn_stats="teacher"), filtered))
    assert not torch.equal(own, NormStatistics(net).running())
    assert "data" == METHOD().record(filtered)["recovery"]["bn_stats"]


def test_batches_of_a_class_meet_the_statistics_of_that_class(textured: MakeProblem, net: Net) -> None:
    """Not those of all images."""
    problem = textured(ipc=2)
    metrics, _ = trace(METHOD(steps=1, roll_max=0, batching="class"), problem)
    statistics = NormStatistics(net)
    rows = class_statistics(statistics, problem, None)
    for label in range(3):
        noise = torch.randn(2, 3, SIDE, SIDE, generator=generator(0, "distill", "step", label))
        wanted = float(statistics.distance(statistics.seen(noise)[1], rows[label]))
        assert metrics[label]["r_bn"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("batching", ["index", "class"])
def test_a_run_taken_up_again_gives_the_same_bits(batching: str, textured: MakeProblem) -> None:
    """Seven steps a batch with everything on, from after the third."""
    problem, kept = textured(ipc=1, filtered=True), []
    method = METHOD(steps=7, batching=batching, crop=True, curriculum="cosine", tv_weight=0.001)

    def keep(done: int, state: State) -> None:
        kept.append((done, {name: value.clone() for name, value in state.items()}))

    whole = run(method, problem, on_checkpoint=keep).pixels
    again = run(method, problem, start=kept[2]).pixels

    assert whole is not None
    assert again is not None
    assert torch.equal(whole, again)


def test_grey_images_and_more_classes_than_a_batch_work(make_problem: MakeProblem) -> None:
    """One channel, three classes, two images at a time."""
    net = build("convnet-d1-w4-bn", channels=1, size=8, classes=3, generator=generator(0, "grey")).eval()
    problem = make_problem(
        pixels=make_problem().pixels[:, :1], space=Space("normalised", (0.3,), (0.3,)),
        backbones=(net.requires_grad_(False),), ipc=2,
    )  # fmt: skip
    result = run(METHOD(steps=2, batch=2), problem)

    assert result.pixels is not None
    assert (6, 1, 8, 8) == tuple(result.pixels.shape)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"backbones": trained_nets("convnet-d1-w4-instance")}, r"no batch norm.*--arch convnet-d2-bn"),
        ({"curriculum": "cosine"}, {}, r"'curriculum' is 'cosine'.*--set crop=true"),
        ({"roll_min": 5}, {}, "'roll_min' is 5, expected at most roll_max, 2"),
        ({"bn_stats": "data"}, {"pixels": textures(1)[0][:1], "labels": torch.zeros(1).long(), "classes": ("one",),
          "ipc": 1}, "one training image"),
        ({}, {"space": "zca"}, "ZCA-whitened"),
    ],
    ids=["no batch norm", "nothing to crop", "empty range", "one image", "whitened"],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_advice(
    options: dict[str, Any], changes: dict[str, Any], message: str, textured: MakeProblem
) -> None:
    """Before any work."""
    if changes.get("space") == "zca":
        changes = {"space": Space("zca", (0.5,) * 3, (0.25,) * 3, fit_zca(textured().pixels[:20]))}
    with pytest.raises(UsageError, match=message):
        run(METHOD(**options), textured(**changes), on_event=lambda event: pytest.fail("work was done"))


def test_a_user_is_told_what_will_be_done(textured: MakeProblem, net: Net) -> None:
    """Batches and steps; nets that are not looked through; classes in parts."""
    said = METHOD(batching="class", batch=2).notes(textured(ipc=3, backbones=(net, net)))

    assert "recovers 6 batches of up to 2 images, 1000 steps each" in said
    assert "looks through the first of 2 nets" in said
    assert "a class has 3 images, --set batch=2 parts them" in said


def test_the_estimate_of_memory_is_within_a_factor_of_two(textured: MakeProblem) -> None:
    """Of the peak of a step, beside the set that it is added to."""
    problem, method = textured(ipc=20), METHOD(steps=5)
    state = method.prepare(problem, generator(0, "start"))
    with Counting() as counting:
        method.step(problem, state, 0, generator(0, "step"))

    assert 0.5 <= (method.memory(problem) - method.set_bytes(problem)) / counting.peak <= 2
