"""CutMix and Mixup of a batch: boxes by hand, distributions, and whose draws they are."""

from __future__ import annotations

import math

import pytest
import torch

from ddlabel import seeding
from ddlabel.labels._mix import Mix, draw_mix, mixed


def test_a_box_by_hand() -> None:
    """Rows 1 to 2 and column 0 come from the partner, all else stays; the input too."""
    images = torch.arange(3 * 2 * 4 * 4, dtype=torch.float64).reshape(3, 2, 4, 4)
    kept = images.clone()
    result = mixed(images, Mix(torch.tensor([2, 0, 1]), 0.5, (1, 3, 0, 1)))
    expected = images.clone()
    expected[:, :, 1:3, :1] = images[[2, 0, 1]][:, :, 1:3, :1]

    assert torch.equal(expected, result)
    assert torch.equal(kept, images)
    assert int((result != images).sum()) == 3 * 2 * 2


def test_a_mixup_by_hand() -> None:
    """0.75 of an image, 0.25 of its partner."""
    images = torch.tensor([0.0, 4.0]).reshape(2, 1, 1, 1)

    assert [1.0, 3.0] == mixed(images, Mix(torch.tensor([1, 0]), 0.75, None)).flatten().tolist()


def test_boxes_are_rdeds() -> None:
    """Sides floor(side sqrt(1 - lambda)) cut to an even number, centre uniform, cut at the borders."""
    draws = seeding.generator(0, "boxes")
    mixes = [draw_mix("cutmix", 4, 32, 16, draws) for _draw in range(2000)]
    for mix in mixes:
        top, bottom, left, right = mix.box
        part = math.sqrt(1 - mix.weight)

        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 16
        assert bottom - top <= int(32 * part) // 2 * 2
        if 0 < top and bottom < 32:
            assert bottom - top == int(32 * part) // 2 * 2
    weights = torch.tensor([mix.weight for mix in mixes], dtype=torch.float64)

    assert abs(float(weights.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 2000)
    assert abs(float((weights < 0.1).double().mean()) - 0.1) < 0.03


def test_mixup_weights_are_beta() -> None:
    """Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2a + 1))."""
    draws = seeding.generator(0, "weights")
    weights = torch.tensor([draw_mix("mixup", 2, 8, 8, draws).weight for _draw in range(4000)], dtype=torch.float64)

    assert float(weights.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(weights.var()) == pytest.approx(1 / (4 * 2.6), abs=0.005)


@pytest.mark.parametrize("how", ["cutmix", "mixup"])
def test_partners_are_a_permutation_and_draws_are_the_generators(how: str) -> None:
    """Nothing is read from the global stream; the same draws again."""
    before = torch.get_rng_state()
    first, again = (draw_mix(how, 9, 8, 8, seeding.generator(4)) for _again in range(2))

    assert list(range(9)) == sorted(first.partner.tolist())
    assert (first.weight, first.box) == (again.weight, again.box)
    assert torch.equal(before, torch.get_rng_state())
