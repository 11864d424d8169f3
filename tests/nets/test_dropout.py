"""Dropout that draws from the net's own state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddlabel.augment._augment import build as build_augmentation
from ddlabel.losses.ce import CrossEntropy
from ddlabel.nets._dropout import Dropout, advance, random_layers
from ddlabel.space import Space
from ddlabel.training import Recipe, TrainState, minibatches, train


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


def test_a_training_with_dropout_repeats_and_continues_to_the_same_bits() -> None:
    """Masks move on from step to step, and go on from the step of a state; nothing is drawn globally."""
    numbers = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (12, 1, 4, 4), generator=numbers, dtype=torch.uint8)
    labels = torch.randint(2, (12,), generator=numbers)
    sampler = minibatches(pixels, labels, batch=4, space=Space(kind="normalised", mean=(0.5,), std=(0.5,), zca=None))
    recipe = Recipe(optimizer="sgd", lr=0.1, epochs=3, batch=4, augment="none")
    states: list[TrainState] = []

    def go(start: TrainState | None = None) -> dict[str, torch.Tensor]:
        linear = nn.Linear(16, 2)
        with torch.no_grad():
            linear.weight.fill_(0.1), linear.bias.fill_(0.0)
        net = nn.Sequential(nn.Flatten(), layer(0.5), linear)
        before, augmentation = torch.get_rng_state(), build_augmentation("none")

        def keep(state: TrainState) -> None:
            states.append(state.copy())

        options = {"seed": 1, "seed_path": ("test",), "on_epoch": keep, "start": start}
        train(net, sampler, recipe, CrossEntropy(), augmentation, **options)
        assert torch.equal(before, torch.get_rng_state())
        return net.state_dict()

    whole = go()
    again, resumed = go(), go(states[0])

    assert int(whole["1.state"][1]) == 9
    assert all(torch.equal(value, again[name]) and torch.equal(value, resumed[name]) for name, value in whole.items())
