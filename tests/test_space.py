"""Input spaces and ZCA whitening against their definitions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ddlabel.bundle import Bundle, StageRecord
from ddlabel.errors import BundleError, UsageError
from ddlabel.manifest import Manifest
from ddlabel.preprocess import read_space, space_sections
from ddlabel.space import Space
from ddlabel.zca import MAX_FEATURES, Zca, fit_zca

RECORD = StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {})

PIXELS = torch.randint(0, 256, (60, 2, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
NORMALISED = Space("normalised", (0.4, 0.5), (0.2, 0.3))


def whitened() -> Space:
    return Space("zca", (0.4, 0.5), (0.2, 0.3), fit_zca(PIXELS))


def test_normalised_images_are_units_minus_mean_over_deviation() -> None:
    """Per channel."""
    images = NORMALISED.encode(PIXELS)
    expected = (PIXELS[5, 1, 2, 0].item() / 255 - 0.5) / 0.3

    assert pytest.approx(expected, abs=1e-6) == float(images[5, 1, 2, 0])


@pytest.mark.parametrize("space", [NORMALISED, whitened()], ids=["normalised", "whitened"])
def test_pixels_survive_a_round_trip(space: Space) -> None:
    """uint8 to images and back, exactly; the input is not changed."""
    kept = PIXELS.clone()

    assert torch.equal(PIXELS, space.to_pixels(space.encode(PIXELS)))
    assert torch.equal(kept, PIXELS)


def test_spaces_are_equal_by_value() -> None:
    """Whitenings to the bit, and so with hashes; anything else is another space."""
    white, again = whitened(), whitened()

    assert (white, hash(white)) == (again, hash(again))
    assert NORMALISED != white != dataclasses.replace(white, zca=_zero_row(white.zca))
    assert white.zca != 3
    assert NORMALISED == Space("normalised", (0.4, 0.5), (0.2, 0.3))


def test_pixels_are_clipped_and_rounded() -> None:
    """Out of range values end at 0 and 255."""
    wild = torch.tensor([[-100.0, 100.0], [0.0, 0.001]]).reshape(1, 2, 1, 2)

    assert {0, 255} <= set(NORMALISED.to_pixels(wild).flatten().tolist())


def test_whitening_is_the_regularised_inverse_root_of_the_covariance() -> None:
    """Covariance of whitened training images is U diag(s / (s + eps)) U^T."""
    zca = fit_zca(PIXELS)
    flat = PIXELS.flatten(1).double() / 255
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    expected = (vectors * (values / (values + 0.1))) @ vectors.T
    white = zca.whiten(PIXELS.float() / 255).flatten(1).double()

    torch.testing.assert_close(torch.cov(white.T), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(zca.matrix, zca.matrix.T, rtol=1e-4, atol=1e-5)


def test_whitening_does_not_depend_on_the_order_of_the_images() -> None:
    """The same set in another order."""
    shuffled = PIXELS[torch.randperm(60, generator=torch.Generator().manual_seed(1))]

    torch.testing.assert_close(fit_zca(PIXELS).matrix, fit_zca(shuffled).matrix, rtol=1e-5, atol=1e-6)


def test_large_images_are_not_whitened() -> None:
    """The matrix would have d^2 entries."""
    with pytest.raises(UsageError, match=f"at most {MAX_FEATURES}"):
        fit_zca(torch.zeros(2, 3, 96, 96, dtype=torch.uint8))


@pytest.fixture(scope="module")
def white(run_cli, tiny, tmp_path_factory) -> Bundle:
    """A bundle in a whitened space."""
    path = tmp_path_factory.mktemp("white") / "z.ddset"
    assert (
        0 == run_cli("distill", "--data", tiny, "--method", "random", "--ipc", "1", "--space", "zca", "-o", path).code
    )
    return Bundle.open(path)


def _zero_row(zca: Zca) -> Zca:
    matrix = zca.matrix.clone()
    matrix[5] = 0
    return dataclasses.replace(zca, matrix=matrix)


@pytest.mark.fault(72)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda zca: dataclasses.replace(zca, matrix=zca.matrix[:5, :5]),
            r"matrix' has shape \(5, 5\), expected \(192, 192\)",
        ),
        (lambda zca: dataclasses.replace(zca, mean=zca.mean[:, :5]), r"mean' has shape \(1, 5\), expected \(1, 192\)"),
        (lambda zca: dataclasses.replace(zca, matrix=torch.zeros_like(zca.matrix)), "is singular"),
        (_zero_row, "is singular"),
        (lambda zca: dataclasses.replace(zca, inverse=zca.matrix), "is singular, or .* not its inverse"),
        (lambda zca: dataclasses.replace(zca, matrix=zca.matrix * math.nan), "is singular"),
        (lambda zca: dataclasses.replace(zca, matrix=zca.matrix.double()), "is singular"),
    ],
    ids=["small matrix", "small mean", "zero", "a row of zeros", "no inverse", "not numbers", "double"],
)
def test_transforms_that_cannot_be_undone_are_refused(white: Bundle, change, message: str) -> None:
    """The tensor is named; with both shapes where it is of another size."""
    good = read_space(white)
    broken = dataclasses.replace(good, zca=change(good.zca))
    with pytest.raises(BundleError, match=rf"z\.ddset: 'transform\.zca\.{message}" if " has" in message else message):
        read_space(white.with_stage(RECORD, add=space_sections(broken)))


@pytest.mark.fault(72)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"section": None}, "needs section and epsilon"),
        ({"section": "transform.other"}, r"no tensor 'transform\.other\.mean'"),
        ({"mean": [0.5]}, "expected 3 of each and every std above 0"),
        ({"std": [0.5, 0.5, 0.0]}, "expected 3 of each and every std above 0"),
    ],
    ids=["no section", "another section", "a mean of one channel", "a deviation of zero"],
)
def test_spaces_that_do_not_fit_are_refused(white: Bundle, change: dict, message: str) -> None:
    """Said by the data record alone."""
    document = dict(white.manifest.document)
    space = {key: value for key, value in (document["data"]["space"] | change).items() if value is not None}
    document["data"] = document["data"] | {"space": space}
    with pytest.raises(BundleError, match=message):
        read_space(Bundle(Manifest(document), white._sources, "z.ddset"))
