"""The supervised loop.

Schedules are checked against torch's own schedulers and hand-computed values, optimiser restarts and weight averages
against loops written here, resuming against an uninterrupted run bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ddlabel import training
from ddlabel.augment._augment import Step
from ddlabel.augment._augment import build as build_augmentation
from ddlabel.errors import DivergedError, UsageError
from ddlabel.events import Event
from ddlabel.losses._loss import Targets
from ddlabel.losses.ce import LOSS as CrossEntropy
from ddlabel.nets._net import Net
from ddlabel.nets._net import build as build_net
from ddlabel.options import build
from ddlabel.schedules import loss_factor, restarts
from ddlabel.seeding import generator
from ddlabel.space import Space
from ddlabel.training import Batch, Recipe, TrainState, accuracy, minibatches, predict, rate, train
from ddlabel.zca import Zca, fit_zca

SPACE = Space("normalised", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NONE = build_augmentation("none")
DSA = build_augmentation("dsa")


def pixels_and_labels(count: int = 48) -> tuple[Tensor, Tensor]:
    """Bright images of class 0, dark ones of class 1, with noise: (n, 3, 8, 8) uint8."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 3, 8, 8), generator=generator(0, "pixels"))
    return (noise + 150 * (1 - labels).reshape(-1, 1, 1, 1)).to(torch.uint8), labels


def small_net(norm: str = "batch", seed: int = 0) -> Net:
    return build_net(f"convnet-d1-w4-{norm}", channels=3, size=8, classes=2, generator=generator(seed, "net"))


def global_states() -> tuple[object, ...]:
    """Where the generators of torch, numpy and Python stand."""
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def run(
    recipe: Recipe, *, net: Net | None = None, seed: int = 0, augment: str = "dsa", **options: object
) -> dict[str, Tensor]:
    """Train a small net; its tensors."""
    pixels, labels = pixels_and_labels()
    trained = train(
        net or small_net(),
        minibatches(pixels, labels, batch=recipe.batch, space=SPACE),
        recipe,
        CrossEntropy(),
        build_augmentation(augment),
        seed=seed,
        seed_path=("test", 1),
        **options,  # type: ignore[arg-type]
    )
    return trained.state_dict()


def keep_in(states: list[TrainState]) -> Callable[[TrainState], None]:
    return lambda state: states.append(state.copy())


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class TestSchedules:
    """`rate`: the published courses of the learning rate, exactly."""

    def test_constant_is_one(self) -> None:
        """Every epoch."""
        assert {1.0} == {rate(Recipe(schedule="constant", epochs=7), epoch) for epoch in range(7)}

    def test_cosine_equals_torch(self) -> None:
        """Against CosineAnnealingLR over E epochs."""
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)

        assert torchs_rates(optimizer, [scheduler] * 30) == pytest.approx(
            [rate(Recipe(schedule="cosine", epochs=30), epoch) for epoch in range(30)], abs=1e-12
        )

    def test_step_drops_once_after_epoch_501_of_1000(self) -> None:
        """Epochs 0 to 501 at full rate, 502 to 1000 at a tenth: 1001 in all."""
        recipe = Recipe(schedule="step", epochs=1000)
        rates = [rate(recipe, epoch) for epoch in range(recipe.rounds)]

        assert rates == [1.0] * 502 + [0.1] * 499

    def test_only_step_runs_one_epoch_more(self) -> None:
        """Its authors' loop counts from 0 to E inclusive."""
        names = ("constant", "cosine", "half-cosine", "step", "gift", "glad", "ast")

        assert [Recipe(schedule=name, epochs=9).rounds for name in names] == [9, 9, 9, 10, 9, 9, 9]

    @pytest.mark.parametrize("epochs", [300, 7, 1])
    def test_half_cosine_equals_torch_over_twice_the_epochs(self, epochs: int) -> None:
        """Against CosineAnnealingLR over 2E epochs, left after E."""
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * epochs)
        recipe = Recipe(schedule="half-cosine", epochs=epochs)

        assert torchs_rates(optimizer, [scheduler] * epochs) == pytest.approx(
            [rate(recipe, epoch) for epoch in range(epochs)], abs=1e-12
        )

    def test_half_cosine_ends_at_half(self) -> None:
        """By hand: 1 at the start, (1 + cos 45 degrees) / 2 half-way, 1/2 after the last epoch."""
        recipe = Recipe(schedule="half-cosine", epochs=300)

        assert pytest.approx([1, 0.5 + 0.5 / math.sqrt(2), 0.5]) == [rate(recipe, epoch) for epoch in (0, 150, 300)]

    @pytest.mark.parametrize("epochs", [1000, 300, 7])
    def test_gift_equals_torch(self, epochs: int) -> None:
        """Against MultiStepLR at 2E//3 and 5E//6, a factor 0.2 each: 666 and 833 of 1000."""
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        milestones = [2 * epochs // 3, 5 * epochs // 6]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
        recipe = Recipe(schedule="gift", epochs=epochs)

        assert torchs_rates(optimizer, [scheduler] * epochs) == pytest.approx(
            [rate(recipe, epoch) for epoch in range(epochs)]
        )

    def test_gift_drops_at_666_and_833_of_1000(self) -> None:
        """By hand, on both sides of each milestone."""
        recipe = Recipe(schedule="gift", epochs=1000)

        assert pytest.approx([1, 0.2, 0.2, 0.04]) == [rate(recipe, epoch) for epoch in (665, 666, 832, 833)]

    @pytest.mark.parametrize("epochs", [1000, 11, 2])
    def test_glad_equals_torch_schedulers_switched_one_step_late(self, epochs: int) -> None:
        """LinearLR for E//2 + 1 scheduler steps, then CosineAnnealingLR over E//2, as GLaD chains them."""
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        half = epochs // 2
        warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-7, end_factor=1.0, total_iters=half)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=half)
        stepped = [warm_up if epoch <= half else cosine for epoch in range(epochs)]
        recipe = Recipe(schedule="glad", epochs=epochs)

        assert torchs_rates(optimizer, stepped) == pytest.approx(
            [rate(recipe, epoch) for epoch in range(epochs)], rel=1e-9, abs=1e-12
        )

    def test_ast_drops_to_0_6_after_epoch_26_of_50(self) -> None:
        """By hand: E//2+1 is 26; the momentum is kept."""
        recipe = Recipe(schedule="ast", epochs=50)

        assert [1.0] * 27 + [0.6] * 23 == [rate(recipe, epoch) for epoch in range(50)]
        assert not any(restarts(recipe, epoch) for epoch in range(50))

    def test_the_loss_factor_grows_over_ten_epochs(self) -> None:
        """0.50, 0.55 to 0.95, then 1; always 1 unless asked for."""
        clipped = [loss_factor(Recipe(loss_decay=True), epoch) for epoch in range(13)]

        assert pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1, 1, 1]) == clipped
        assert {1.0} == {loss_factor(Recipe(), epoch) for epoch in range(13)}

    def test_glad_at_its_corners(self) -> None:
        """1e-7 at the start, 1 at E//2 and one epoch more, half at three quarters, almost 0 at the end."""
        recipe = Recipe(schedule="glad", epochs=1000)
        last = 0.5 * (1 + math.cos(math.pi * 498 / 500))

        assert pytest.approx([1e-7, 1, 1, 0.5, last]) == [rate(recipe, epoch) for epoch in (0, 500, 501, 751, 999)]

    @pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "gift", "glad", "ast"])
    @pytest.mark.parametrize("epochs", [1, 2, 3])
    def test_short_runs_have_finite_rates_in_range(self, schedule: str, epochs: int) -> None:
        """No division by zero when E//2 is 0."""
        recipe = Recipe(schedule=schedule, epochs=epochs)

        assert all(0 < rate(recipe, epoch) <= 1 for epoch in range(recipe.rounds))


def torchs_rates(optimizer: torch.optim.Optimizer, schedulers: list[object]) -> list[float]:
    """The learning rate in each epoch when scheduler i is stepped after epoch i."""
    rates = []
    for scheduler in schedulers:
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()  # type: ignore[attr-defined]
    return rates


@dataclass(frozen=True)
class Squares:
    """Loss whose gradient is known: half the squared distance of the logits from fixed values."""

    values: Tensor

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        return 0.5 * (logits - self.values).square().sum(dim=1).mean()


class Flat(nn.Module):
    """Logits are a linear function of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3, -0.2, 0.1, 0.4], [0.0, 0.5, -0.3, 0.2]]))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


IMAGES = torch.randn(5, 1, 2, 2, generator=generator(0, "images"))
VALUES = torch.randn(5, 2, generator=generator(0, "values"))


def whole_set(epoch: int, source: Generator) -> Iterator[Batch]:
    """One batch of all images per epoch."""
    del epoch, source
    yield IMAGES, Targets(torch.zeros(5, dtype=torch.int64), None, None, None)


def by_hand(recipe: Recipe, restart: int | None) -> list[Tensor]:
    """Weights after each epoch of momentum SGD with decay; the velocity is forgotten at epoch `restart`."""
    x, w = IMAGES.flatten(1), Flat().weight.detach()
    velocity: Tensor | None = None
    history = []
    for epoch in range(recipe.rounds):
        gradient = (x @ w.T - VALUES).T @ x / len(x) + recipe.weight_decay * w
        if epoch == restart:
            velocity = None
        velocity = gradient if velocity is None else recipe.momentum * velocity + gradient
        w = w - recipe.lr * rate(recipe, epoch) * velocity
        history.append(w)
    return history


def train_flat(recipe: Recipe, **options: object) -> Tensor:
    options = {"seed": 0, "seed_path": ()} | options
    net = train(Flat(), whole_set, recipe, Squares(VALUES), NONE, **options)  # type: ignore[arg-type]
    return net.weight.detach()


class TestArithmetic:
    """The loop against SGD written out."""

    def test_sgd_with_momentum_and_decay(self) -> None:
        """Every epoch of a constant schedule."""
        recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=0.01, epochs=12)
        seen: list[Tensor] = []
        train_flat(recipe, on_epoch=lambda state: seen.append(state.copy().net["weight"]))

        torch.testing.assert_close(torch.stack(seen), torch.stack(by_hand(recipe, None)))

    def test_step_schedule_forgets_the_momentum_when_the_rate_drops(self) -> None:
        """E = 6: epochs 0 to 4 at full rate, then a fresh optimiser for 5 and 6."""
        recipe = Recipe(lr=0.1, momentum=0.9, schedule="step", epochs=6)
        expected, remembered = by_hand(recipe, 5)[-1], by_hand(recipe, None)[-1]

        torch.testing.assert_close(train_flat(recipe), expected)
        assert not torch.allclose(expected, remembered)

    def test_gift_schedule_keeps_the_momentum(self) -> None:
        """Only `step` restarts."""
        recipe = Recipe(lr=0.1, momentum=0.9, schedule="gift", epochs=6)

        torch.testing.assert_close(train_flat(recipe), by_hand(recipe, None)[-1])

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_decay_of_weights_leaves_biases_and_norms_alone(self, optimizer: str) -> None:
        """Against torch's own optimiser with two groups of parameters, step by step; the norm is in between them."""
        recipe = Recipe(optimizer=optimizer, lr=0.01, weight_decay=0.5, decay="weights", epochs=3, batch=48)
        made = run(recipe, augment="none")
        net = small_net()
        pixels, labels = pixels_and_labels()
        weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in net.parameters() if parameter.ndim == 1]
        classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        decaying = classes[optimizer](weights, lr=0.01, weight_decay=0.5)
        free = classes[optimizer](others, lr=0.01, weight_decay=0.0)
        for epoch in range(3):
            order = torch.randperm(48, generator=generator(0, "test", 1, "epoch", epoch))
            net.zero_grad()
            functional.cross_entropy(net(SPACE.encode(pixels[order])), labels[order]).backward()
            decaying.step()
            free.step()

        assert len(weights) == 2
        assert len(others) >= 3
        for name, value in net.state_dict().items():
            torch.testing.assert_close(made[name], value)
        assert not same(made, run(dataclasses.replace(recipe, decay="all"), augment="none"))

    def test_average_is_the_plain_mean_of_the_first_200_epochs(self) -> None:
        """Decay 1 - 1/(1 + e) is the running mean of what came before."""
        recipe = Recipe(lr=0.05, momentum=0.5, epochs=40, ema=True)

        torch.testing.assert_close(train_flat(recipe), torch.stack(by_hand(recipe, None)).mean(dim=0))

    def test_average_decays_by_0_995_from_epoch_199_on(self) -> None:
        """Against the recursion with decay min(0.995, 1 - 1/(1 + e)), 260 epochs of growing weights."""
        recipe = Recipe(lr=1e-3, epochs=260, ema=True)
        expected = torch.zeros(2, 4)
        for epoch, weight in enumerate(by_hand(recipe, None)):
            decay = min(0.995, 1 - 1 / (1 + epoch))
            expected = decay * expected + (1 - decay) * weight

        torch.testing.assert_close(train_flat(recipe), expected)
        assert not torch.allclose(expected, torch.stack(by_hand(recipe, None)).mean(dim=0), atol=1e-5)

    @pytest.mark.parametrize("name", ["adam", "adamw"])
    def test_adam_and_adamw_equal_torchs(self, name: str) -> None:
        """The same steps with torch's optimiser driven by hand."""
        recipe = Recipe(optimizer=name, lr=0.01, weight_decay=0.1, epochs=8)
        net = Flat()
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        optimizer = kind(net.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(8):
            optimizer.zero_grad()
            Squares(VALUES)(net(IMAGES), Targets(torch.zeros(5), None, None, None)).backward()
            optimizer.step()

        torch.testing.assert_close(train_flat(recipe), net.weight.detach())


def by_hand_gsam(recipe: Recipe) -> list[Tensor]:
    """Weights after each epoch of adaptive GSAM on `Squares`, float64, with momentum SGD on its gradient."""
    x, values, w = IMAGES.flatten(1).double(), VALUES.double(), Flat().double().weight.detach()
    velocity: Tensor | None = None
    history = []

    def slope(at: Tensor) -> Tensor:
        return (x @ at.T - values).T @ x / len(x)

    for _ in range(recipe.epochs):
        first = slope(w)
        second = slope(w + recipe.rho * w**2 * first / (w.abs() * first).norm())
        cosine = (first * second).sum() / (first.norm() * second.norm())
        across = first - cosine * first.norm() * second / second.norm()
        gradient = second - recipe.alpha * across + recipe.weight_decay * w
        velocity = gradient if velocity is None else recipe.momentum * velocity + gradient
        w = w - recipe.lr * velocity
        history.append(w)
    return history


def train_double(recipe: Recipe, loss: Any = None, **options: Any) -> list[Tensor]:
    """Weights after each epoch of the linear net in float64."""

    def sample(epoch: int, source: Generator) -> Iterator[Batch]:
        for images, targets in whole_set(epoch, source):
            yield images.double(), targets

    seen: list[Tensor] = []
    loss = loss or Squares(VALUES.double())
    keep = lambda state: seen.append(state.copy().net["weight"])  # noqa: E731
    train(Flat().double(), sample, recipe, loss, NONE, seed=0, seed_path=(), on_epoch=keep, **options)
    return seen


class TestFlatAndSmooth:
    """GSAM and AST's terms as parts of the loop, float64."""

    def test_gsam_with_momentum_and_decay(self) -> None:
        """Every epoch, against the formulas written out; no ascent is SGD."""
        recipe = Recipe(optimizer="gsam", rho=0.2, alpha=0.7, lr=0.1, momentum=0.9, weight_decay=0.01, epochs=8)
        made = torch.stack(train_double(recipe))
        still = train_double(dataclasses.replace(recipe, rho=0.0))
        plain = train_double(dataclasses.replace(recipe, optimizer="sgd"))

        torch.testing.assert_close(made, torch.stack(by_hand_gsam(recipe)), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(torch.stack(still), torch.stack(plain), rtol=1e-12, atol=0)
        assert not torch.allclose(made, torch.stack(plain), rtol=1e-3)

    def test_both_passes_see_the_same_augmented_batch(self) -> None:
        """The net is given every batch twice, bit for bit, and draws no augmentation between."""
        seen: list[Tensor] = []

        class Spy(Flat):
            def forward(self, images: Tensor) -> Tensor:
                seen.append(images.detach().clone())
                return super().forward(images)

        crop = build_augmentation("crop-flip")
        train(Spy(), whole_set, Recipe(optimizer="gsam", epochs=3), Squares(VALUES), crop, seed=0, seed_path=())

        assert len(seen) == 6
        assert all(torch.equal(first, second) for first, second in zip(seen[::2], seen[1::2], strict=True))
        assert not torch.equal(seen[0], seen[2])

    def test_running_statistics_see_every_batch_once(self) -> None:
        """By the counter and the momentum of the running mean, whatever passes there are beside the first."""
        net = small_net()
        run(Recipe(optimizer="gsam", gradient_penalty=2.0, epochs=2, batch=10), net=net, augment="none")

        assert net.state_dict()["blocks.0.norm.num_batches_tracked"] == 10

    def test_loss_decay_shortens_the_first_steps(self) -> None:
        """Without momentum and decay it is a smaller step size, and the loss that is reported is what is minimised."""
        recipe = Recipe(lr=0.1, epochs=12, loss_decay=True)
        x, values, w = IMAGES.flatten(1).double(), VALUES.double(), Flat().double().weight.detach()
        for epoch, made in enumerate(train_double(recipe)):
            w = w - 0.1 * min(1.0, 0.5 + 0.05 * epoch) * (x @ w.T - values).T @ x / len(x)
            torch.testing.assert_close(made, w, rtol=1e-12, atol=1e-14)

    def test_the_gradient_penalty_is_of_the_images_without_augmentation(self) -> None:
        """One step by hand: the slope of the linear net is the sum of its rows, whatever the images."""
        recipe = Recipe(lr=0.1, epochs=1, gradient_penalty=2.0)
        w = Flat().double().weight.detach()
        slope = w.sum(dim=0)
        extra = 2 * 2 * (slope.abs() - 1) * slope.sign() / 4

        (made,) = train_double(recipe)
        (plain,) = train_double(dataclasses.replace(recipe, gradient_penalty=0.0))
        torch.testing.assert_close(plain - made, 0.1 * extra.expand(2, 4))

        seen: list[Tensor] = []

        class Spy(Flat):
            def forward(self, images: Tensor) -> Tensor:
                seen.append(images.detach().clone())
                return super().forward(images)

        train(Spy(), whole_set, recipe, Squares(VALUES), build_augmentation("dsa"), seed=0, seed_path=())
        assert torch.equal(seen[1], IMAGES)
        assert not torch.equal(seen[0], IMAGES)


class TestStreams:
    """Where randomness comes from."""

    recipe = Recipe(lr=0.05, momentum=0.9, epochs=2, batch=10)

    def test_same_seed_same_bits(self) -> None:
        """Twice the same run."""
        assert same(run(self.recipe), run(self.recipe))

    def test_another_seed_gives_other_bits(self) -> None:
        """The seed decides data order and augmentation, given the same initial net."""
        assert not same(run(self.recipe), run(self.recipe, seed=1))

    def test_global_generators_are_left_alone(self) -> None:
        """Neither torch's, nor numpy's, nor Python's generator moves, and setting them changes nothing."""
        states = global_states()
        first = run(self.recipe)
        after = global_states()

        assert states == after
        with torch.random.fork_rng():
            torch.rand(7)
            assert same(first, run(self.recipe))

    def test_every_epoch_draws_its_own_augmentation(self) -> None:
        """Three epochs of one whole batch draw three different parameter records."""
        drawn: list[str] = []

        class Spy:
            def draw(self, *arguments: Any, **options: Any) -> tuple[Step, ...]:
                steps = DSA.draw(*arguments, **options)
                drawn.append(repr([(step.family, {k: v.tolist() for k, v in step.values.items()}) for step in steps]))
                return steps

        pixels, labels = pixels_and_labels()
        sampler = minibatches(pixels, labels, batch=48, space=SPACE)
        train(small_net(), sampler, Recipe(epochs=3), CrossEntropy(), Spy(), seed=0, seed_path=())

        assert len(set(drawn)) == 3

    def test_a_net_in_eval_mode_is_trained_in_train_mode(self) -> None:
        """Batch norm uses the statistics of the batch, whatever mode the net came in."""
        assert same(run(self.recipe), run(self.recipe, net=small_net().eval()))

    def test_data_order_does_not_depend_on_the_augmentation(self) -> None:
        """Comparisons between augmentations see the images in the same order."""
        pixels, labels = pixels_and_labels()
        orders: list[list[float]] = []
        for augmentation in (NONE, DSA):
            seen: list[float] = []

            def spy(epoch: int, source: Generator, seen: list[float] = seen) -> Iterator[Batch]:
                for images, targets in minibatches(pixels, labels, batch=10, space=SPACE)(epoch, source):
                    seen += images.sum(dim=(1, 2, 3)).tolist()
                    yield images, targets

            train(small_net(), spy, self.recipe, CrossEntropy(), augmentation, seed=0, seed_path=())
            orders.append(seen)

        assert len(orders[0]) == 2 * 48
        assert orders[0] == orders[1]


RECIPES = {
    "sgd, momentum": Recipe(lr=0.05, momentum=0.9, epochs=6, batch=10),
    "sgd, step schedule": Recipe(lr=0.05, momentum=0.9, schedule="step", epochs=4, batch=10),
    "sgd, glad schedule, averaged": Recipe(lr=0.05, momentum=0.9, schedule="glad", epochs=6, batch=10, ema=True),
    "adam": Recipe(optimizer="adam", lr=0.01, weight_decay=0.1, epochs=4, batch=10),
    "adamw, gift schedule": Recipe(optimizer="adamw", lr=0.01, schedule="gift", epochs=6, batch=10),
    "adamw, decay of weights": Recipe(
        optimizer="adamw", lr=0.01, weight_decay=0.3, decay="weights", schedule="half-cosine", epochs=4, batch=10
    ),
    "gsam": Recipe(optimizer="gsam", lr=0.05, rho=0.1, momentum=0.9, weight_decay=0.01, epochs=4, batch=10),
    "gsam, plain, no momentum": Recipe(optimizer="gsam", lr=0.05, rho=0.1, adaptive=False, epochs=3, batch=10),
    "smooth": Recipe(
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-3,
        schedule="ast",
        loss_decay=True,
        gradient_penalty=2.0,
        epochs=4,
        batch=10,
    ),
    "sgd, decay of weights": Recipe(lr=0.05, momentum=0.9, weight_decay=0.3, decay="weights", epochs=4, batch=10),
}


class TestResume:
    """Fault 114: interrupted and continued equals uninterrupted."""

    @pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
    @pytest.mark.fault(114)
    def test_fault_114_continuing_from_any_epoch_gives_the_same_bits(self, recipe: Recipe) -> None:
        """From the state after every epoch, into a net of other weights; states before and after are the same."""
        states: list[TrainState] = []
        whole = run(recipe, on_epoch=keep_in(states))

        assert recipe.rounds == len(states)
        for state in states:
            later: list[TrainState] = []
            before = state.copy()
            continued = run(recipe, net=small_net(seed=9), start=state, on_epoch=keep_in(later))
            assert same(whole, continued)
            for part in ("net", "optimizer", "average"):
                assert same(getattr(before, part), getattr(state, part))
            assert all(
                same(dict(a.optimizer), dict(b.optimizer)) for a, b in zip(states[state.epoch :], later, strict=True)
            )

    def test_the_optimiser_state_matters(self) -> None:
        """Meta-test: dropping the momentum from the state is noticed."""
        states: list[TrainState] = []
        recipe = RECIPES["sgd, momentum"]
        whole = run(recipe, on_epoch=keep_in(states))
        forgetful = dataclasses.replace(states[2], optimizer={})

        assert states[2].optimizer
        assert not same(whole, run(recipe, net=small_net(seed=9), start=forgetful))

    def test_a_copied_state_does_not_follow_the_run(self) -> None:
        """The state given to the callback is live, its copy is not."""
        live: list[TrainState] = []
        copies: list[TrainState] = []

        def keep(state: TrainState) -> None:
            live.append(state)
            copies.append(state.copy())

        run(RECIPES["sgd, momentum"], on_epoch=keep)

        assert not same(dict(live[0].net), dict(copies[0].net))


class TestDivergence:
    """Numbers that make no sense stop the run, and what was kept before is good."""

    @pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
    @pytest.mark.fault(115)
    def test_fault_115_a_bad_loss_names_step_value_and_option(self, value: float) -> None:
        """The loss of step 2 of epoch 3 is spoilt: the state of epoch 2 is finite and two epochs were reported."""
        calls = 0
        states: list[TrainState] = []

        def spoilt(logits: Tensor, targets: Targets) -> Tensor:
            nonlocal calls
            calls += 1
            loss = functional.cross_entropy(logits, targets.hard)
            return loss * value if calls == 2 * 5 + 2 else loss

        pixels, labels = pixels_and_labels()
        recipe = Recipe(lr=0.05, momentum=0.9, epochs=4, batch=10)
        with pytest.raises(DivergedError) as caught:
            train(
                net := small_net(),
                minibatches(pixels, labels, batch=10, space=SPACE),
                recipe,
                spoilt,
                DSA,
                seed=0,
                seed_path=(),
                on_epoch=keep_in(states),
            )

        assert f"training loss is {value} in epoch 3 of 4, step 2; lower --set lr (now 0.05)" == str(caught.value)
        assert [state.epoch for state in states] == [1, 2]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in [*states[-1].net.values(), *net.parameters()])

    @pytest.mark.fault(115)
    def test_fault_115_weights_that_overflow_in_the_last_step_are_noticed(self) -> None:
        """The loss was still finite, the weights are not: no state and no net is handed out."""
        states: list[TrainState] = []
        with pytest.raises(
            DivergedError, match=r"'weight' is not finite in epoch 1 of 1, its last step; lower --set lr"
        ):
            train(
                Flat(),
                whole_set,
                Recipe(lr=1e38, epochs=1),
                lambda logits, targets: 1e6 * logits.sum(),
                NONE,
                seed=0,
                seed_path=(),
                on_epoch=states.append,
            )

        assert states == []


class TestReports:
    """Events and callbacks."""

    def test_every_step_is_reported_with_its_loss(self) -> None:
        """Five steps and one summary per epoch, counted in epochs."""
        events: list[Event] = []
        run(Recipe(lr=0.05, epochs=2, batch=10), on_event=events.append)

        assert [event.done for event in events] == [0] * 5 + [1] + [1] * 5 + [2]
        assert {2} == {event.total for event in events}
        assert all(math.isfinite(event.metrics["loss"]) for event in events)

    def test_the_summary_is_the_mean_of_the_steps(self) -> None:
        """And equals the loss of the state."""
        events: list[Event] = []
        states: list[TrainState] = []
        run(Recipe(lr=0.05, epochs=1, batch=10), on_event=events.append, on_epoch=states.append)
        *steps, summary = [event.metrics["loss"] for event in events]

        assert pytest.approx(sum(steps) / 5) == summary == states[0].loss

    def test_an_exception_from_a_listener_stops_the_run(self) -> None:
        """The safe point for an interrupt is inside an epoch."""
        steps = 0

        def stop(event: Event) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(Recipe(epochs=2, batch=10), on_event=stop)

        assert steps == 3

    def test_the_net_holds_the_weights_of_the_epoch_during_the_callback(self) -> None:
        """Scoring inside the callback sees the epoch, and does not disturb training."""
        net, scores = small_net(), []
        pixels, labels = pixels_and_labels()
        recipe = Recipe(lr=0.05, epochs=3, batch=10)
        scored = run(recipe, net=net, on_epoch=lambda _: scores.append(accuracy(net, pixels, labels, space=SPACE)))

        assert len(scores) == 3
        assert same(run(recipe), scored)


def test_training_separates_bright_from_dark() -> None:
    """The loop learns: 96 % of an easy set after ten epochs, from chance."""
    pixels, labels = pixels_and_labels()
    net = small_net("instance")
    run(Recipe(lr=0.1, momentum=0.9, epochs=10, batch=10), net=net, augment="crop-flip")

    assert accuracy(net, pixels, labels, space=SPACE) > 0.96
    assert not net.training


class TestScores:
    """`accuracy` and `predict`."""

    def test_accuracy_counts_largest_logits(self) -> None:
        """By hand: logits are the two pixels of the image, three of four labels agree."""
        images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [5.0, 6.0]]).reshape(4, 1, 1, 2)
        net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        net[1].weight.data.copy_(torch.eye(2))

        assert accuracy(net, images, torch.tensor([0, 1, 1, 1])) == 0.75

    @pytest.mark.parametrize("batch", [1, 5, 48, 1000])
    def test_logits_equal_a_direct_forward_pass(self, batch: int) -> None:
        """In eval mode, whatever the batch."""
        pixels, _ = pixels_and_labels()
        net = small_net()
        expected = small_net().eval()(SPACE.encode(pixels)).detach()

        torch.testing.assert_close(predict(net, pixels, space=SPACE, batch=batch), expected)

    def test_encoded_images_score_like_their_pixels(self) -> None:
        """Without a space, images are taken as they are."""
        pixels, _ = pixels_and_labels()

        assert torch.equal(predict(small_net(), pixels, space=SPACE), predict(small_net(), SPACE.encode(pixels)))

    def test_the_mode_of_the_net_and_its_statistics_are_kept(self) -> None:
        """Scoring a net in training leaves it in train mode, with the running statistics it had."""
        pixels, labels = pixels_and_labels()
        net = small_net().train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        accuracy(net, pixels, labels, space=SPACE)

        assert net.training
        assert same(before, net.state_dict())

    def test_the_mode_is_kept_when_scoring_fails(self) -> None:
        """A net that cannot take the images stays in train mode."""
        net = small_net().train()
        with pytest.raises(RuntimeError):
            predict(net, torch.zeros(2, 5, 8, 8))

        assert net.training

    def test_no_images_have_no_accuracy(self) -> None:
        """Neither 0 nor NaN is an answer."""
        with pytest.raises(ValueError, match="accuracy of no images"):
            accuracy(small_net(), torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))


class TestMinibatches:
    """Real data, encoded batch by batch."""

    def test_each_image_comes_once_with_its_label(self) -> None:
        """48 images in batches of 10: the last one has 8."""
        pixels, labels = pixels_and_labels()
        batches = list(minibatches(pixels, labels, batch=10, space=SPACE)(0, generator(0, "epoch")))
        images = torch.cat([images for images, _ in batches])
        order = [int((SPACE.encode(pixels) == image).flatten(1).all(dim=1).nonzero()[0]) for image in images]

        assert [len(images) for images, _ in batches] == [10, 10, 10, 10, 8]
        assert list(range(48)) == sorted(order)
        assert labels[order].tolist() == torch.cat([targets.hard for _, targets in batches]).tolist()

    def test_order_is_a_function_of_the_generator(self) -> None:
        """Same stream same order, other stream other order."""
        pixels, labels = pixels_and_labels()
        sampler = minibatches(pixels, labels, batch=48, space=SPACE)
        first, again, other = (next(sampler(0, generator(0, "epoch", epoch)))[0] for epoch in (0, 0, 1))

        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_an_epoch_may_see_a_part(self) -> None:
        """Of every epoch exactly the images its subset names, in an order of the generator; labels go with them."""
        pixels, labels = pixels_and_labels()
        parts = {0: torch.tensor([40, 3, 7, 12, 30]), 1: torch.arange(20, 32)}
        sampler = minibatches(pixels, labels, batch=4, space=SPACE, subset=parts.__getitem__)
        orders = []
        for epoch, part in parts.items():
            batches = list(sampler(epoch, generator(0, "epoch", epoch)))
            images = torch.cat([images for images, _ in batches])
            order = [int((SPACE.encode(pixels) == image).flatten(1).all(dim=1).nonzero()[0]) for image in images]
            orders.append(order)
            assert sorted(part.tolist()) == sorted(order)
            assert labels[order].tolist() == torch.cat([targets.hard for _, targets in batches]).tolist()
            assert [len(images) for images, _ in batches] == [4] * (len(part) // 4) + [len(part) % 4] * (
                len(part) % 4 > 0
            )

        assert orders[1] != sorted(orders[1])

    def test_the_whole_split_as_a_subset_changes_nothing(self) -> None:
        """Bit for bit the batches without one."""
        pixels, labels = pixels_and_labels()
        plain = minibatches(pixels, labels, batch=10, space=SPACE)
        whole = minibatches(pixels, labels, batch=10, space=SPACE, subset=lambda epoch: torch.arange(48))
        pairs = zip(plain(0, generator(0, "e")), whole(0, generator(0, "e")), strict=True)

        assert all(torch.equal(left, right) for (left, _), (right, _) in pairs)

    @pytest.mark.parametrize("limit", [48 * 192 * 4, 48 * 192 * 4 - 1], ids=["fits", "too large"])
    def test_whitened_images_are_encoded_once_if_they_fit(self, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whitening is a matrix product per image: once per image, or once per image and epoch; the same images."""
        pixels, labels = pixels_and_labels()
        space = Space("zca", (0.5,) * 3, (0.2,) * 3, fit_zca(pixels))
        whitened: list[int] = []
        whiten = Zca.whiten

        def spy(zca: Zca, units: Tensor) -> Tensor:
            whitened.append(len(units))
            return whiten(zca, units)

        monkeypatch.setattr(training, "ENCODED_BYTES", limit)
        monkeypatch.setattr(Zca, "whiten", spy)
        sampler = minibatches(pixels, labels, batch=10, space=space)
        for epoch in range(3):
            images = torch.cat([images for images, _ in sampler(epoch, generator(0, "epoch", epoch))])

        assert sum(whitened) == (48 if limit == 48 * 192 * 4 else 3 * 48)
        order = torch.randperm(48, generator=generator(0, "epoch", 2))
        torch.testing.assert_close(images, space.encode(pixels[order]), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("whiten", [True, False], ids=["zca", "normalised"])
    def test_batches_are_encoded_where_the_net_is(self, whiten: bool) -> None:
        """On another device than the pixels and the whitening: images and labels are there (here one without data)."""
        pixels, labels = pixels_and_labels()
        space = Space("zca", (0.5,) * 3, (0.2,) * 3, fit_zca(pixels)) if whiten else SPACE
        batches = list(minibatches(pixels, labels, batch=40, space=space, device="meta")(0, generator(0, "epoch")))

        assert [(len(images), images.device.type, targets.hard.device.type) for images, targets in batches] == [
            (40, "meta", "meta"),
            (8, "meta", "meta"),
        ]

    def test_pixels_stay_as_they_are(self) -> None:
        """Encoding does not write into the data set."""
        pixels, labels = pixels_and_labels()
        before = pixels.clone()
        list(minibatches(pixels, labels, batch=48, space=SPACE)(0, generator(0, "epoch")))

        assert torch.equal(before, pixels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"lr": "0"}, "'lr' is 0.0, expected a number > 0"),
        ({"momentum": "1"}, "'momentum' is 1.0"),
        (
            {"schedule": "cosin"},
            "'schedule' is 'cosin', expected one of constant, cosine, half-cosine, step, gift, glad, ast",
        ),
        ({"optimizer": "lion"}, "'optimizer' is 'lion', expected one of sgd, adam, adamw, gsam"),
        ({"epochs": "0"}, "'epochs' is 0"),
    ],
    ids=["no step size", "momentum of one", "unknown schedule", "unknown optimiser", "no epochs"],
)
def test_impossible_recipes_are_refused(text: dict[str, str], message: str) -> None:
    """Recipe fields are options with bounds."""
    with pytest.raises(UsageError, match=message):
        build(Recipe, text)


class Growing:
    """A loss that is the cross entropy times the epoch it is told of."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        raise AssertionError("the loss of an epoch is what trains")

    def at_epoch(self, epoch: int) -> Callable[[Tensor, Targets], Tensor]:
        self.told.append(epoch)
        return lambda logits, targets: functional.cross_entropy(logits, targets.hard) * (epoch + 1)


def test_a_loss_may_change_from_epoch_to_epoch() -> None:
    """It is asked once per epoch, also when a run is continued."""
    recipe = Recipe(epochs=3, batch=48, lr=0.1)
    pixels, labels = pixels_and_labels()
    states: list[TrainState] = []

    def go(loss: Growing, start: TrainState | None) -> None:
        sampler = minibatches(pixels, labels, batch=48, space=SPACE)
        train(small_net(), sampler, recipe, loss, NONE, seed=0, seed_path=("t",), start=start, on_epoch=keep_in(states))

    whole, rest = Growing(), Growing()
    go(whole, None)
    go(rest, states[0])

    assert ([0, 1, 2], [1, 2]) == (whole.told, rest.told)
    assert same(states[2].net, states[4].net)
