"""What recovery methods share: Adam against torch's, the box of pixels, crops and shifts against plain ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor

from ddlabel.crops import resized_crops
from ddlabel.distill._method import Problem, State, run
from ddlabel.distill._recover import Recovery, View, one_crop, rolled
from ddlabel.errors import UsageError
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.zca import fit_zca

MakeProblem = Callable[..., Problem]
WIDE = Space("normalised", (0.5,) * 3, (0.005,) * 3)
"""Pixels are in [-100, 100], which nothing here reaches."""


@dataclass(frozen=True, kw_only=True)
class Towards(Recovery):
    """Images that move to a constant, each batch to its own."""

    def batches(self, problem: Problem) -> list[Tensor]:
        return list(torch.arange(len(problem.classes) * problem.ipc).split(5))

    def augmented(self, problem: Problem, images: Tensor, step: int, generator: Generator) -> Tensor:
        del problem, step, generator
        return images

    def loss(self, problem: Problem, state: State, view: View) -> tuple[Tensor, dict[str, float], State]:
        assert view.seen.requires_grad
        assert torch.equal(view.labels, view.rows // problem.ipc)
        return (view.seen - 3 - view.number).square().sum(), {}, {}


def test_steps_are_those_of_adam_on_a_cosine(make_problem: MakeProblem) -> None:
    """torch's Adam with the published betas, from the same noise; the last iterate of every batch is kept."""
    problem = make_problem(space=WIDE)
    method = Towards(steps=6, lr_images=0.3)
    kept: list[State] = []
    pixels = run(method, problem, on_checkpoint=lambda _done, state: kept.append(state)).pixels
    assert pixels is not None
    for number, rows in enumerate(method.batches(problem)):
        draws = generator(0, "distill", "step", 6 * number)
        image = torch.randn((len(rows), 3, 8, 8), generator=draws).requires_grad_(True)
        adam = torch.optim.Adam([image], lr=1.0, betas=(0.5, 0.9), eps=1e-8)
        cosine = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: method.rate(problem, step))
        for _ in range(6):
            adam.zero_grad()
            (image - 3 - number).square().sum().backward()
            adam.step()
            cosine.step()

        last = kept[6 * number + 5]["batch"]
        torch.testing.assert_close(last, image.detach(), rtol=1e-5, atol=1e-5)
        assert torch.equal(pixels[rows], problem.space.to_pixels(last))


def test_the_step_size_falls_along_half_a_cosine(make_problem: MakeProblem) -> None:
    """lr, lr / 2 and 0; what is left to auto has a value."""
    problem = make_problem()
    method = Towards(steps=100, lr_images=0.4)

    assert [0.4, 0.2, 0.0] == pytest.approx([method.rate(problem, step) for step in (0, 50, 100)], abs=1e-12)
    assert Towards().total_steps(problem) == 3 * Towards().length(problem) == 3000


def test_images_stay_within_possible_pixels(make_problem: MakeProblem) -> None:
    """Channel by channel; what the box cuts is stored as 0 or 255."""
    problem = make_problem()
    kept: list[State] = []
    pixels = run(
        Towards(steps=40, lr_images=0.5), problem, on_checkpoint=lambda _done, state: kept.append(state)
    ).pixels
    assert pixels is not None
    units = problem.space.decode(kept[-1]["batch"])

    assert float(units.min()) >= -1e-6
    assert float(units.max()) <= 1 + 1e-6
    assert float(units[:, 0].max()) == pytest.approx(1, abs=1e-6), "3 is beyond white in the first channel"
    assert (pixels[:, 0] == 255).any()


def test_whitened_images_are_refused(make_problem: MakeProblem) -> None:
    """They have no box."""
    pixels = make_problem().pixels
    space = Space("zca", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), fit_zca(pixels))
    with pytest.raises(UsageError, match=r"ZCA-whitened.*--space normalised"):
        run(Towards(), make_problem(space=space))


@pytest.mark.parametrize("crop", [(0, 0, 9, 7), (2, 1, 5, 6), (8, 6, 1, 1), (0, 3, 9, 2)], ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_one_crop_is_the_same_crop_of_every_image(crop: tuple[int, int, int, int], mirrored: bool) -> None:
    """Against a crop of each; what lies outside has no gradient, what lies inside has."""
    images = torch.rand(3, 2, 9, 7, generator=generator(0, "images")).requires_grad_(True)
    top, left, tall, wide = crop
    made = one_crop(images, crop, mirrored=mirrored)
    each = resized_crops(images.detach(), torch.arange(3), torch.tensor([crop] * 3), torch.full((3,), mirrored))
    (gradient,) = torch.autograd.grad(made.sum(), images)
    inside = gradient[:, :, top : top + tall, left : left + wide].clone()
    gradient[:, :, top : top + tall, left : left + wide] = 0

    torch.testing.assert_close(made.detach(), each, rtol=0, atol=1e-5)
    assert bool((inside > 0).all())
    assert not gradient.any()


def test_shifts_are_in_circles_and_in_range() -> None:
    """Every image alike; both ends of the range occur; no shift is none."""
    image = torch.zeros(2, 1, 8, 8)
    image[:, :, 0, 0] = 1
    places = set()
    for draw in range(80):
        moved = rolled(image, -1, 2, generator(draw, "roll"))
        assert torch.equal(moved[0], moved[1])
        places.add(tuple(moved[0, 0].nonzero()[0].tolist()))

    assert {(down % 8, right % 8) for down in range(-1, 3) for right in range(-1, 3)} == places
    assert rolled(image, 0, 0, generator(0, "roll")) is image
