"""Augmentations against slices by hand, finite differences and the published ranges."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from ddlabel import _plugins, seeding
from ddlabel.augment._augment import FAMILIES, OPERATIONS, Step, apply, build, draw_step, flips
from ddlabel.errors import UsageError

NAMES = _plugins.names("augment")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4, side: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=generator(9), dtype=dtype)


def one(family: str, **values: float) -> tuple[Step, ...]:
    return (Step(family, {name: torch.tensor([value]) for name, value in values.items()}),)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    """Same generator same result, replayable, input unchanged, global generator untouched."""
    before, pictures = torch.get_rng_state(), images()
    steps = build(name).draw(4, 8, 8, generator())
    again = build(name).draw(4, 8, 8, generator())
    kept = pictures.clone()
    result = apply(pictures, steps)

    assert torch.equal(result, apply(pictures, again))
    assert torch.equal(result, apply(pictures, steps))
    assert torch.equal(kept, pictures)
    assert result.shape == pictures.shape
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_siamese_draws_treat_all_images_alike(name: str) -> None:
    """Identical images stay identical, whatever the size of the batch; other draws differ between images."""
    same = images(1).expand(6, -1, -1, -1)
    differing = 0
    for seed in range(12):
        alike = apply(same, build(name).draw(6, 8, 8, generator(seed), siamese=True))
        apart = apply(same, build(name).draw(6, 8, 8, generator(seed)))

        assert all(torch.equal(alike[0], picture) for picture in alike)
        differing += any(not torch.equal(apart[0], picture) for picture in apart)
    assert differing >= 6


@pytest.mark.parametrize(
    "steps",
    [
        one("color", brightness=0.5, saturation=0.5, contrast=0.5),
        one("crop", down=0, right=0),
        (Step("flip", {"flip": torch.tensor([False])}),),
        one("scale", x=1.0, y=1.0),
        one("rotate", angle=0.0),
        (Step("resized-crop", {"crop": torch.tensor([[0, 0, 8, 8]])}),),
    ],
    ids=["color", "crop", "flip", "scale", "rotate", "resized-crop"],
)
def test_neutral_parameters_are_the_identity(steps: tuple[Step, ...]) -> None:
    """Half of every colour draw, no shift, no mirror, factor one, no angle."""
    torch.testing.assert_close(apply(images(), steps), images(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("down", "right"), [(2, 0), (-1, 3), (0, -2), (1, 1)])
def test_crop_is_a_shifted_slice_with_zeros(down: int, right: int) -> None:
    """Against padding and slicing."""
    padded = torch.nn.functional.pad(images(), (4, 4, 4, 4))
    expected = padded[:, :, 4 + down : 12 + down, 4 + right : 12 + right]

    assert torch.equal(expected, apply(images(), one("crop", down=down, right=right)))


def test_cutout_removes_between_a_quarter_and_the_whole_box() -> None:
    """The box is cut at the border, never below half its side."""
    ones = torch.ones(500, 1, 32, 32)
    zeros = (apply(ones, (draw_step("cutout", 500, 32, 32, generator()),)) == 0).sum(dim=(1, 2, 3))

    assert (64, 256) == (int(zeros.min()), int(zeros.max()))


def test_flip_mirrors_half_of_the_images() -> None:
    """Per sample."""
    pictures = images(400)
    result = apply(pictures, (draw_step("flip", 400, 8, 8, generator()),))
    mirrored = sum(torch.equal(a, b.flip(2)) for a, b in zip(result, pictures, strict=True))

    assert 160 < mirrored < 240


@pytest.mark.parametrize("family", OPERATIONS)
def test_gradients_flow_through_every_family(family: str) -> None:
    """Against finite differences in float64."""
    step = draw_step(family, 2, 6, 6, generator(5))
    pictures = images(2, 6, torch.float64).requires_grad_(True)

    assert torch.autograd.gradcheck(lambda x: apply(x, (step,)), (pictures,))


def test_one_family_is_drawn_per_batch_uniformly() -> None:
    """Chi-square of 3,000 draws over six families below its 99.9 % point; without flip, five of them."""
    source = generator()
    counts = Counter(build("dsa").draw(1, 8, 8, source)[0].family for _draw in range(3000))
    without = {build("dsa", flip=False).draw(1, 8, 8, source)[0].family for _draw in range(300)}

    assert sum((counts[name] - 500) ** 2 / 500 for name in FAMILIES) < 20.5
    assert without == set(FAMILIES) - {"flip"}


def test_the_composite_is_flip_colour_one_geometry_and_cutout() -> None:
    """In that order, with the other corner convention."""
    for seed in range(10):
        steps = build("dsa-composite").draw(2, 8, 8, generator(seed))

        assert ["flip", "color", steps[2].family, "cutout"] == [step.family for step in steps]
        assert steps[2].family in {"crop", "scale", "rotate"}
        assert not any(step.align_corners for step in steps)


def test_published_ranges_are_respected() -> None:
    """Scale in [1/1.2, 1.2], rotation in ±15 degrees, shift of an eighth of the side."""
    scale = draw_step("scale", 1000, 32, 32, generator()).values["x"]
    angle = draw_step("rotate", 1000, 32, 32, generator()).values["angle"]
    shift = draw_step("crop", 1000, 32, 32, generator()).values["down"]

    assert 1 / 1.2 <= float(scale.min()) < 0.84
    assert 1.19 < float(scale.max()) <= 1.2
    assert 14 < float(angle.abs().max()) <= 15
    assert (-4, 4) == (int(shift.min()), int(shift.max()))


def test_flip_alone_mirrors_and_resized_crops_come_before_it() -> None:
    """In that order; without mirroring, where the data forbid it."""
    assert [["flip"], ["resized-crop", "flip"], [], ["resized-crop"]] == [
        [step.family for step in build(name, flip=flip).draw(3, 8, 8, generator())]
        for flip in (True, False)
        for name in ("flip", "resized-crop")
    ]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (128, 96), (3, 3)])
def test_resized_crops_are_half_to_all_of_the_image(height: int, width: int) -> None:
    """Area in [1/2, 1], aspect ratio in [3/4, 4/3] within rounding, inside the image, not always the same place."""
    crop = draw_step("resized-crop", 2000, height, width, generator()).values["crop"]
    top, left, tall, wide = crop.double().unbind(1)
    some = ~((tall == height) & (wide == width))  # the whole image is also what ten misses end with

    assert bool((crop >= 0).all())
    assert bool((tall >= 1).all())
    assert bool((wide >= 1).all())
    assert bool(((top + tall <= height) & (left + wide <= width)).all())
    assert bool(((tall + 0.5) * (wide + 0.5) >= height * width / 2).all())
    assert bool((((wide - 0.5) / (tall + 0.5))[some] <= 4 / 3).all())
    assert bool((((tall - 0.5) / (wide + 0.5))[some] <= 4 / 3).all())
    if height > 3:
        assert float((tall * wide / (height * width)).mean()) == pytest.approx(0.7, abs=0.05)
        assert {0, 1, 2} <= set(crop[:, 0].tolist())


def test_a_resized_crop_is_a_slice_resized_by_torch() -> None:
    """Four crops, each of its own image."""
    step = draw_step("resized-crop", 4, 8, 8, generator(2))
    made = apply(images(dtype=torch.float64), (step,))
    for index, (top, left, tall, wide) in enumerate(step.values["crop"].tolist()):
        part = images(dtype=torch.float64)[index : index + 1, :, top : top + tall, left : left + wide]
        expected = torch.nn.functional.interpolate(part, size=(8, 8), mode="bilinear", align_corners=False)[0]

        torch.testing.assert_close(expected, made[index])


def test_the_flips_of_drawn_steps_are_those_that_apply_makes() -> None:
    """Read off the record, against the images: one flip, two that cancel, a shared one, none."""
    images = torch.arange(6 * 12, dtype=torch.float32).reshape(6, 1, 3, 4)
    one, two = (draw_step("flip", 6, 3, 4, seeding.generator(seed, "flips")) for seed in (0, 1))
    shared = draw_step("flip", 1, 3, 4, seeding.generator(3, "flips"))
    for steps in ((one,), (one, two), (shared,), (one, shared, two)):
        changed = (apply(images, steps) != images).flatten(1).any(dim=1)

        assert torch.equal(changed, flips(steps, 6))
    assert flips((draw_step("crop", 6, 3, 4, seeding.generator(0, "flips")),), 6) is None


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (9, 3), (9, 2), (11, 4), (8, 8)])
def test_shuffled_patches_keep_every_pixel(side: int, factor: int) -> None:
    """The multiset of pixels of each image, also where F does not divide its side; strips stay whole."""
    pictures = torch.arange(3 * side * side, dtype=torch.float64).reshape(1, 3, side, side).repeat(5, 1, 1, 1)
    steps = build(f"shuffle-patches-{factor}").draw(5, side, side, generator(2))
    result = apply(pictures, steps[:1])
    wide, used = side // factor, side // factor * factor

    assert torch.equal(pictures.flatten(2).sort(dim=2).values, result.flatten(2).sort(dim=2).values)
    assert torch.equal(pictures[:, :, used:, used:], result[:, :, used:, used:])
    for picture, columns, rows in zip(result, *(steps[0].values[name] for name in ("columns", "rows")), strict=True):
        for place, strip in enumerate(columns.tolist()):
            for line, other in enumerate(rows.tolist()):
                patch = picture[:, line * wide : (line + 1) * wide, place * wide : (place + 1) * wide]
                source = pictures[0][:, other * wide : (other + 1) * wide, strip * wide : (strip + 1) * wide]

                assert torch.equal(source, patch)
    assert torch.equal(pictures[0], pictures[1])


def test_crops_of_shuffled_patches_lie_inside_the_strips_and_are_at_least_a_share_of_them() -> None:
    """Pixels beyond the last whole strip are dropped; areas from 1/F on, up to the rounding of sides."""
    crops = build("shuffle-patches-3").draw(2000, 32, 32, generator())[1].values["crop"]
    area = crops[:, 2] * crops[:, 3] / 900

    assert int((crops[:, :2] + crops[:, 2:]).max()) == 30
    assert 0.3 < float(area.min()) < 0.36
    assert float(area.max()) > 0.97


@pytest.mark.parametrize("name", ["shuffle-patches-1", "resized-crop-65"])
def test_factors_out_of_range_are_refused(name: str) -> None:
    """One patch needs no mosaic."""
    with pytest.raises(UsageError, match="expected in 2 to 64"):
        build(name)


def test_resized_crops_know_the_factor_of_the_mosaics() -> None:
    """F = 2 by name alone; areas from 1/F on."""
    least = {
        name: float((build(name).draw(3000, 32, 32, generator())[0].values["crop"][:, 2:].prod(dim=1) / 1024).min())
        for name in ("resized-crop", "resized-crop-2", "resized-crop-4")
    }

    assert least["resized-crop"] == least["resized-crop-2"] == pytest.approx(0.5, abs=0.03)
    assert least["resized-crop-4"] == pytest.approx(0.25, abs=0.03)
