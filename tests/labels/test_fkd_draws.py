"""What fkd draws: tables against closed forms, crops and boxes against the published rules in exact arithmetic."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddlabel.labels._draws import Seeded
from ddlabel.labels._tables import RATIO_BITS, beta_table, ratio_table
from ddlabel.philox import philox


def seeded(**changes) -> Seeded:
    options = {"key": 12345, "images": 50, "side": 32, "scale_min": Fraction("0.08"), "flip": True, "alpha": "1.0"}
    return Seeded(**{**options, **changes})


def pairs(images: int, views: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(images).repeat_interleave(views), torch.arange(views).repeat(images)


def test_ratios_are_log_uniform_and_their_own_reciprocals() -> None:
    """From 3/4 to 4/3 in 4096 equal factors, to the last bit that matters."""
    table = ratio_table().astype(float) / 2**RATIO_BITS
    exact = [math.exp(math.log(0.75) + (k + 0.5) / 4096 * math.log(16 / 9)) for k in range(4096)]

    np.testing.assert_allclose(table, exact, rtol=0, atol=2**-RATIO_BITS)
    np.testing.assert_allclose(table * table[::-1], 1, rtol=0, atol=2 * 2**-RATIO_BITS * 4 / 3)


CLOSED = {
    "1.0": lambda x: x,
    "2.0": lambda x: x * x * (3 - 2 * x),
    "3.0": lambda x: x**3 * (10 - 15 * x + 6 * x * x),
    "0.5": lambda x: 2 / math.pi * math.asin(math.sqrt(x)),
}


@pytest.mark.parametrize("alpha", CLOSED)
def test_beta_quantiles_invert_the_distribution(alpha: str) -> None:
    """Where Beta(a, a) has a closed form: uniform, two polynomials, the arcsine law."""
    quantiles = beta_table(alpha).astype(float) / 2**32
    shares = [CLOSED[alpha](value) for value in quantiles]

    np.testing.assert_allclose(shares, np.arange(257) / 256, rtol=0, atol=1e-8 if alpha != "0.5" else 1e-5)


@pytest.mark.parametrize("alpha", ["0.1", "0.8", "1.0", "10.0"])
def test_beta_quantiles_rise_from_zero_to_one_symmetrically(alpha: str) -> None:
    """And integrate to the variance of Beta(a, a), 1 / (4 (2a + 1))."""
    table = beta_table(alpha).astype(np.int64)
    middles = (table[1:] + table[:-1]) / 2**33

    assert (0, 2**31, 2**32) == (table[0], table[128], table[256])
    assert (np.diff(table) >= 0).all()
    assert (table + table[::-1] == 2**32).all()
    assert ((middles - 0.5) ** 2).mean() == pytest.approx(1 / (4 * (2 * float(alpha) + 1)), abs=2e-3)


def test_the_draws_are_frozen() -> None:
    """A bundle made today is replayed by every later version: the bytes of 200 views, and of both tables."""
    draws, (image, view) = seeded(alpha="0.8"), pairs(20, 10)
    crop, flip = draws.crops(image, view)
    everything = [crop, flip.long(), draws.partners(image, view), draws.boxes(image, view), draws.weights(image, view)]
    digest = hashlib.sha256(b"".join(part.numpy().astype("<i8").tobytes() for part in everything))
    tables = hashlib.sha256(ratio_table().astype("<u8").tobytes() + beta_table("0.8").astype("<u8").tobytes())

    assert digest.hexdigest() == "fc66e92356fa97ccd9d9d268192857daddeecc8b7c322f4223f4bc430a7d2075"
    assert tables.hexdigest() == "767904ce80b9b2590be87d20ff4bc499f494bd561bb4b0f7e902c17bc695b66a"


def crop_of(draws: Seeded, image: int, view: int) -> list[int]:
    """The published rule with exact square roots, from the same random words."""
    for attempt in range(10):
        area, shape, row, column = (int(word) for word in philox(draws.key, image, view, attempt, 0))
        share = draws.scale_min + (1 - draws.scale_min) * Fraction(area, 2**32)
        index = shape * 4096 >> 32
        ratios = [Fraction(int(ratio_table()[place]), 2**RATIO_BITS) for place in (index, 4095 - index)]
        wide, tall = (math.floor(draws.side * math.sqrt(share * ratio) + 0.5) for ratio in ratios)
        if 1 <= wide <= draws.side and 1 <= tall <= draws.side:
            return [row * (draws.side - tall + 1) >> 32, column * (draws.side - wide + 1) >> 32, tall, wide]
    return [0, 0, draws.side, draws.side]


@pytest.mark.parametrize(
    ("side", "least"), [(8, "0.08"), (32, "0.08"), (64, "1/4"), (224, "0.08"), (9, "1"), (1, "0.5")]
)
def test_crops_follow_the_published_rule(side: int, least: str) -> None:
    """Area, aspect ratio, rounding, place, ten attempts, then the whole image."""
    draws = seeded(side=side, scale_min=Fraction(least))
    image, view = pairs(10, 30)
    crop, _flip = draws.crops(image, view)

    assert [crop_of(draws, *pair) for pair in zip(image.tolist(), view.tolist(), strict=True)] == crop.tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(1, 300), st.sampled_from(["0.08", "0.000001", "1/3", "1"]))
def test_crops_and_boxes_lie_inside_the_image(key: int, side: int, least: str) -> None:
    """Any stream and size; sides and areas within rounding of what was asked for."""
    draws, (image, view) = seeded(key=key, side=side, scale_min=Fraction(least)), pairs(8, 8)
    crop, _flip = draws.crops(image, view)
    for areas, smallest in ((crop, 1), (draws.boxes(image, view), 0)):
        assert int(areas[:, :2].min()) >= 0
        assert int(areas[:, 2:].min()) >= smallest
        assert int((areas[:, :2] + areas[:, 2:]).max()) <= side
    tall, wide = crop[:, 2].double(), crop[:, 3].double()
    assert bool(((tall + 0.5) * (wide + 0.5) >= float(Fraction(least)) * side**2 - 1e-6).all())
    assert bool(((wide - 0.5) / (tall + 0.5) <= 4 / 3).all())
    assert bool(((tall - 0.5) / (wide + 0.5) <= 4 / 3).all())


def test_crops_have_torchvisions_distribution() -> None:
    """Mean and spread of area, ratio and place of 40,000 crops beside as many of torchvision's."""
    transforms = pytest.importorskip("torchvision.transforms")
    crop, flip = seeded(side=224).crops(*pairs(200, 200))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = torch.zeros(1, 224, 224)
        theirs = [transforms.RandomResizedCrop.get_params(blank, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(8_000)]
    ours, other = crop.double(), torch.tensor(theirs).double()
    for measure in (
        lambda c: c[:, 2] * c[:, 3] / 224**2,
        lambda c: (c[:, 3] / c[:, 2]).log(),
        lambda c: c[:, 0] / 224,
        lambda c: c[:, 1] / 224,
    ):
        assert float(measure(ours).mean()) == pytest.approx(float(measure(other).mean()), abs=0.012)
        assert float(measure(ours).std()) == pytest.approx(float(measure(other).std()), abs=0.012)
    assert float(flip.double().mean()) == pytest.approx(0.5, abs=0.01)


def test_data_that_may_not_be_mirrored_are_not() -> None:
    """The crops stay as they are."""
    (crop, flip), (same, none) = (seeded(flip=chosen).crops(*pairs(20, 20)) for chosen in (True, False))

    assert torch.equal(crop, same)
    assert bool(flip.any())
    assert not bool(none.any())


@pytest.mark.parametrize("side", [8, 33, 224])
def test_boxes_follow_cutmix(side: int) -> None:
    """Half of floor(side sqrt(1 - lambda)) to each side of the centre, clipped, by exact roots from the same words."""
    draws, (image, view) = seeded(side=side), pairs(10, 30)
    for pair, box in zip(
        zip(image.tolist(), view.tolist(), strict=True), draws.boxes(image, view).tolist(), strict=True
    ):
        mixing = int(philox(draws.key, *pair, 0, 1)[2])
        half = math.isqrt(side**2 * (2**32 - mixing) >> 32) // 2
        centres = [int(word) * side >> 32 for word in philox(draws.key, *pair, 0, 2)[:2]]
        (top, bottom), (left, right) = ([max(c - half, 0), min(c + half, side)] for c in centres)

        assert [top, left, bottom - top, right - left] == box


def test_partners_are_any_image_and_weights_follow_beta() -> None:
    """Chi-square of 50 partners below its 99.99 % point; mean and variance of Beta(0.8, 0.8)."""
    draws, (image, view) = seeded(alpha="0.8"), pairs(50, 400)
    counts = torch.bincount(draws.partners(image, view), minlength=50).double()
    weights = draws.weights(image, view).double() / 2**16

    assert float(((counts - 400) ** 2 / 400).sum()) < 103
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weights.var()) == pytest.approx(1 / (4 * 2.6), abs=0.002)
    assert 0 <= float(weights.min()) <= float(weights.max()) < 1


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_draw_does_not_depend_on_its_batch(data: st.DataObject) -> None:
    """Any order, split and repetition."""
    draws = seeded(alpha="0.8")
    chosen = st.lists(st.tuples(st.integers(0, 49), st.integers(0, 999)), min_size=1, max_size=12)
    image, view = torch.tensor(data.draw(chosen)).unbind(1)
    together = [
        *draws.crops(image, view),
        draws.partners(image, view),
        draws.boxes(image, view),
        draws.weights(image, view),
    ]
    for index in range(len(image)):
        one = image[index : index + 1], view[index : index + 1]
        alone = [*draws.crops(*one), draws.partners(*one), draws.boxes(*one), draws.weights(*one)]

        assert all(torch.equal(whole[index], part[0]) for whole, part in zip(together, alone, strict=True))


def test_streams_images_and_views_draw_differently() -> None:
    """Nearly no two crops alike."""
    image, view = pairs(30, 30)
    crops = [seeded(key=key, side=1000).crops(image, view)[0] for key in (1, 2, 2**32 + 1)]

    assert len({tuple(crop) for made in crops for crop in made.tolist()}) > 2690
