"""What pictures of float images lose, against loops over single numbers."""

from __future__ import annotations

import math

import pytest
import torch

from ddlabel.distilled import read_stored
from ddlabel.errors import BundleError
from ddlabel.exporters._pictures import draw

from .conftest import MEAN, STD, floats


def test_clipped_pictures_are_the_nearest_pixels(make) -> None:
    """Value by value: pixel, share that is clipped, and error."""
    images = floats(3.0)
    pictures = draw(read_stored(make(images)), "clip")
    clipped, error = 0, 0.0
    for place in torch.cartesian_prod(*(torch.arange(side) for side in images.shape)).tolist():
        unit = float(images[tuple(place)]) * STD[place[1]] + MEAN[place[1]]
        pixel = round(255 * min(max(unit, 0), 1))
        assert abs(pixel - int(pictures.pixels[tuple(place)])) <= (abs(255 * unit % 1 - 0.5) < 1e-3)
        clipped += not -1 / 510 <= unit <= 1 + 1 / 510
        error += (unit - pixel / 255) ** 2

    assert clipped / images.numel() == pictures.clipped > 0.1
    assert math.isclose(math.sqrt(error / images.numel()), pictures.rmse, rel_tol=1e-3)
    assert "viewable" == pictures.form


def test_contrast_is_one_scale_that_can_be_undone(make) -> None:
    """Mean +- 2.5 standard deviations of the whole set: what is not clipped comes back to half a step."""
    images = floats(3.0)
    pictures = draw(read_stored(make(images)), "contrast")
    units = images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    spread = float(units.double().std(correction=0))
    undone = pictures.low + pictures.pixels / 255 * (pictures.high - pictures.low)
    inside = (units > pictures.low) & (units < pictures.high)

    assert math.isclose(pictures.high - pictures.low, 5 * spread, rel_tol=1e-6)
    assert math.isclose((pictures.high + pictures.low) / 2, float(units.double().mean()), rel_tol=1e-5)
    assert float((undone - units)[inside].abs().max()) <= 2.5 * spread / 255 * 1.001
    assert pictures.rmse < draw(read_stored(make(images)), "clip").rmse


def test_contrast_is_no_wider_than_the_values(make) -> None:
    """Of two values, one becomes black and the other white."""
    images = torch.where(floats() > 0, 0.1, -0.2)
    pictures = draw(read_stored(make(images, channels=3)), "contrast")
    units = images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]

    assert math.isclose(float(units.min()), pictures.low, rel_tol=1e-6)
    assert math.isclose(float(units.max()), pictures.high, rel_tol=1e-6)
    assert [0, 255] == [int(pictures.pixels.min()), int(pictures.pixels.max())]
    assert 0 == pictures.clipped


def test_whitened_images_are_shown_without_their_whitening(make) -> None:
    """Pixels whitened and stored as floats come back as those pixels, and nothing counts as clipped."""
    bundle = make(zca=True)
    stored = read_stored(bundle)
    pixels = bundle.tensor("images.pixels")
    whitened = make(stored.encode(), zca=True)
    pictures = draw(read_stored(whitened), "clip")

    assert torch.equal(pixels, pictures.pixels)
    assert 0 == pictures.clipped
    assert pictures.rmse < 1e-4
    assert pictures.rmse_training < 1e-2


def test_errors_in_training_space_are_relative_to_the_images(make) -> None:
    """By the formula, for normalised images."""
    images = floats(3.0)
    pictures = draw(read_stored(make(images)), "clip")
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    again = (pictures.pixels.float() / 255 - mean) / std
    wanted = float((again - images).square().sum().sqrt() / images.square().sum().sqrt())

    assert math.isclose(wanted, pictures.rmse_training, rel_tol=1e-5)


def test_images_all_alike_have_contrast_too(make) -> None:
    """No division by zero."""
    grey = torch.full((6, 3, 6, 4), 0.5)
    units = grey * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    images = (units * 0 + 0.5 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    pictures = draw(read_stored(make(images)), "contrast")

    assert {127, 128} >= set(pictures.pixels.unique().tolist())
    assert math.isfinite(pictures.rmse)


def test_images_that_are_not_finite_are_refused(make) -> None:
    """No picture of NaN."""
    images = floats()
    images[3, 0, 0, 0] = math.nan
    with pytest.raises(BundleError, match="NaN or infinity"):
        draw(read_stored(make(images)), "clip")
