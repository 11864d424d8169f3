"""Dropout that draws from the net's own state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddlabel.nets._dropout import Dropout, advance, random_layers


def layer(p: float = 0.25, *, rows: bool = False, seed: int = 0) -> Dropout:
    made = Dropout(p, rows=rows)
    made.initialise(torch.Generator().manual_seed(seed))
    return made


def test_shares_and_scale() -> None:
    """A quarter is dropped and the mean stays."""
    kept = layer()(torch.ones(200, 500))

    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1.0).div(0.75).item()}
    assert pytest.approx(0.25, abs=0.01) == float((kept == 0).double().mean())


def test_rows_are_kept_or_dropped_whole() -> None:
    """Stochastic depth."""
    kept = layer(0.5, rows=True)(torch.ones(400, 3, 2, 2)).flatten(1)

    assert torch.equal(kept.amin(dim=1), kept.amax(dim=1))
    assert pytest.approx(0.5, abs=0.1) == float((kept[:, 0] == 0).double().mean())


def test_masks_follow_from_seed_and_step_and_nothing_else() -> None:
    """A repeated pass has the same mask, the next step another, and a copied state the same; no global draws."""
    before, ones = torch.get_rng_state(), torch.ones(20, 20)
    first, same, other = layer(), layer(), layer(seed=1)
    masks = [first(ones)]
    assert torch.equal(masks[0], first(ones))
    advance(random_layers(nn.Sequential(first)))
    masks.append(first(ones))

    assert not torch.equal(*masks)
    assert torch.equal(masks[0], same(ones))
    assert not torch.equal(masks[0], other(ones))
    same.load_state_dict(first.state_dict())
    assert torch.equal(masks[1], same(ones))
    assert torch.equal(before, torch.get_rng_state())


def test_eval_mode_and_probability_zero_pass_through() -> None:
    """The very tensor."""
    ones = torch.ones(3)

    assert layer().eval()(ones) is ones
    assert layer(0.0)(ones) is ones
    assert random_layers(nn.Sequential(layer(0.0))) == ()
