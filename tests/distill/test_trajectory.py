"""Trajectory matching: start ranges, batches, masks, what is learned, and the guards around it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddlabel import _plugins
from ddlabel.distill import _initial, _trajectory
from ddlabel.distill._initial import average_right, initial_images, initial_logits
from ddlabel.distill._method import Problem, State, run
from ddlabel.distill._rules import balance, draw_batches, mask_of, perturbed, upper_start
from ddlabel.distill._trajectory import TrajectoryMatching
from ddlabel.distill._unroll import Matched, Unrolled, match
from ddlabel.errors import BundleError, DivergedError, UsageError
from ddlabel.nets._net import build
from ddlabel.seeding import generator

MakeProblem = Callable[..., Problem]
FAMILY = ("mtt", "tesla", "ftd", "ast", "datm", "pad")
SMALL: dict[str, Any] = {
    "steps": 3, "syn_steps": 3, "expert_epochs": 2, "max_start_epoch": 2, "current_max_start_epoch": None,
    "interval": None, "init": "real", "lr_images": 0.5, "syn_lr": 0.05, "batch_syn": 5,
}  # fmt: skip


def method(name: str, **options: Any) -> TrajectoryMatching:
    made: TrajectoryMatching = _plugins.load("distill", name, "METHOD")(**{**SMALL, **options})
    return made


def start(chosen: TrajectoryMatching, problem: Problem) -> State:
    return chosen.prepare(problem, generator(problem.seed, "distill", "prepare"))


def step(chosen: TrajectoryMatching, problem: Problem, state: State, index: int = 0) -> tuple[State, dict[str, float]]:
    return chosen.step(problem, state, index, generator(problem.seed, "distill", "step", index))


class TestStartRange:
    """DATM's U(it)."""

    @pytest.mark.parametrize(("index", "upper"), [(0, 10), (99, 10), (100, 11), (999, 19), (1000, 20), (5000, 20)])
    def test_it_grows_by_one_epoch_per_interval(self, index: int, upper: int) -> None:
        """T = 10, T+ = 20, interval 100: the table of the paper's schedule."""
        assert upper == upper_start(index, first=10, last=20, interval=100)

    def test_mtt_has_the_whole_range_at_once_and_datm_half_of_it(self) -> None:
        """Unless told otherwise; half of T+, growing by an epoch every 100 steps, is DATM at ipc 10."""
        assert _plugins.load("distill", "mtt", "METHOD")(max_start_epoch=20).first_upper() == 20
        for name in ("datm", "pad"):
            grown = _plugins.load("distill", name, "METHOD")
            assert grown(max_start_epoch=20).first_upper() == 10
            assert grown(max_start_epoch=1).first_upper() == 1
            assert grown(max_start_epoch=20, current_max_start_epoch=20).first_upper() == 20
        epochs = [
            method("datm", max_start_epoch=4, expert_epochs=1)._start_epoch(100, generator(0, "s", i))
            for i in range(60)
        ]
        assert {0, 1, 2} == set(epochs)

    def test_start_epochs_are_uniform_and_never_the_upper_end(self, make_problem: MakeProblem) -> None:
        """Every epoch of {1, 2} is drawn, 0 and 3 never."""
        chosen = method("mtt", min_start_epoch=1, max_start_epoch=3, expert_epochs=1)
        drawn = [chosen._start_epoch(index, generator(0, "draw", index)) for index in range(200)]

        assert {1, 2} == set(drawn)
        assert abs(drawn.count(1) - 100) < 45


class TestBatches:
    """The student's chunks."""

    def test_each_round_shows_every_image_once_the_short_chunk_first(self) -> None:
        """10 images in chunks of 4: sizes 2, 4, 4, then a new permutation."""
        batches = draw_batches(10, 4, 7, generator(0, "batches"))

        assert [2, 4, 4, 2, 4, 4, 2] == [len(batch) for batch in batches]
        for first in (0, 3):
            assert list(range(10)) == sorted(torch.cat(batches[first : first + 3]).tolist())
        assert batches[0].tolist() != batches[3].tolist()

    def test_a_batch_of_all_is_a_permutation(self) -> None:
        """b >= n."""
        assert all(sorted(batch.tolist()) == [0, 1, 2] for batch in draw_batches(3, 3, 4, generator(0, "all")))


class TestMask:
    """FIEM."""

    @pytest.mark.parametrize(("share", "count"), [(0.25, 320_010), (0.29, 100), (0.5, 7), (0.75, 504_420)])
    def test_depth_drops_exactly_the_first_floor_of_the_share(self, share: float, count: int) -> None:
        """The published cuts: 80,002 of 320,010 at a quarter."""
        keep = mask_of("depth", share)
        assert keep is not None
        kept = keep(torch.ones(count))
        dropped = {320_010: 80_002, 100: 29, 7: 3, 504_420: 378_315}[count]

        assert dropped == int((kept == 0).sum())
        assert not kept[:dropped].any()

    def test_deep_drops_the_last(self) -> None:
        """The ablation of PAD's Table 5b."""
        keep = mask_of("deep", 0.5)
        assert keep is not None

        assert [1, 1, 0, 0] == keep(torch.zeros(4)).tolist()

    def test_loss_keeps_the_largest_errors_as_numpy_would(self) -> None:
        """Exactly P - floor(rP) entries."""
        errors = torch.rand(101, generator=generator(0, "errors"))
        keep = mask_of("loss", 0.3)
        assert keep is not None
        reference = np.ones(101)
        reference[np.argsort(errors.numpy(), kind="stable")[:30]] = 0

        assert reference.tolist() == keep(errors).tolist()

    def test_nothing_dropped_is_no_mask(self) -> None:
        """PAD without FIEM is DATM."""
        assert mask_of("depth", 0.0) is None
        assert mask_of("none", 0.5) is None

    def test_a_discarded_coordinate_of_the_target_does_not_matter(self, make_problem: MakeProblem) -> None:
        """And one that is kept does."""
        problem = make_problem()
        chosen = method("pad", mask_shallow=0.5, soft_labels=False)
        unrolled = chosen.student(problem, start(chosen, problem), 0, generator(0, "student"))
        losses = []
        for place in (None, 0, -1):
            target = unrolled.waypoints[-1].parameters.clone()
            if place is not None:
                target[place] += 1.0
            moved = aimed_at(unrolled, target)
            losses.append(float(match(moved).loss))

        assert losses[0] == losses[1]
        assert losses[0] != losses[2]


def aimed_at(unrolled: Unrolled, target: Tensor) -> Unrolled:
    waypoint = dataclasses.replace(unrolled.waypoints[-1], parameters=target)
    return dataclasses.replace(unrolled, waypoints=(waypoint,))


class TestFamily:
    """What the members have in common, and where they differ."""

    @pytest.mark.parametrize("name", FAMILY)
    def test_a_step_moves_images_and_step_size(self, name: str, make_problem: MakeProblem) -> None:
        """By SGD with momentum against the exact gradient."""
        problem, chosen = make_problem(), method(name, lr_lr=1e-3, threshold=None)
        state = start(chosen, problem)
        new, metrics = step(chosen, problem, state)

        assert not torch.equal(state["images"], new["images"])
        assert float(new["lr"]) != float(state["lr"])
        assert math.isfinite(metrics["loss"])

    def test_ast_with_its_switches_off_is_mtt(self, make_problem: MakeProblem) -> None:
        """Bit for bit."""
        off = {"perturb": 0.0, "inner_momentum": 0.0, "intermediate": "none", "balanced": False}
        results = [run(method(name, **(off if name == "ast" else {})), make_problem()) for name in ("ast", "mtt")]

        assert torch.equal(results[0].images, results[1].images)  # type: ignore[arg-type]

    def test_pad_without_mask_is_datm(self, make_problem: MakeProblem) -> None:
        """Bit for bit."""
        results = [run(method(name, mask_shallow=0.0), make_problem()) for name in ("pad", "datm")]

        assert torch.equal(results[0].images, results[1].images)  # type: ignore[arg-type]
        assert torch.equal(results[0].logits, results[1].logits)  # type: ignore[arg-type]

    def test_ftd_gives_the_average_of_its_images(self, make_problem: MakeProblem) -> None:
        """The closed form over the images of an MTT run: d^k X0 + (1-d) sum of d^(k-i) X_i."""
        problem, decay = make_problem(), 0.5
        seen = [start(method("mtt"), problem)["images"]]
        run(method("mtt"), problem, on_checkpoint=lambda done, state: seen.append(state["images"]))
        expected = seen[0]
        for images in seen[1:]:
            expected = decay * expected + (1 - decay) * images

        assert torch.allclose(expected, run(method("ftd", ema=decay), problem).images, atol=1e-6)  # type: ignore[arg-type]

    def test_tesla_is_another_gradient_unless_there_is_one_step(self, make_problem: MakeProblem) -> None:
        """With N = 1 nothing is dropped."""
        problem = make_problem()
        for steps, equal in ((1, True), (3, False)):
            ours, theirs = (
                step(method(name, syn_steps=steps, syn_lr=0.3), problem, start(method(name), problem))[0]["images"]
                for name in ("mtt", "tesla")
            )
            assert equal == torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)

    def test_labels_of_the_target_change_the_gradient(self, make_problem: MakeProblem) -> None:
        """TESLA's teacher_label."""
        problem = make_problem()
        images = [
            step(method("tesla", teacher_label=on), problem, start(method("tesla"), problem))[0]["images"]
            for on in (False, True)
        ]

        assert not torch.equal(images[0], images[1])

    def test_learned_labels_and_step_size_are_handed_out(self, make_problem: MakeProblem) -> None:
        """As logits (n, k) and a positive number."""
        distilled = run(method("datm"), make_problem())

        assert distilled.logits is not None
        assert (12, 3) == tuple(distilled.logits.shape)
        assert distilled.lr is not None
        assert distilled.lr > 0
        assert run(method("mtt"), make_problem()).logits is None

    def test_experts_take_turns(self, make_problem: MakeProblem) -> None:
        """Each once per round, in an order that changes."""
        chosen, problem = method("mtt"), make_problem()
        rounds = [tuple(chosen._expert(problem, 2 * index + which) for which in (0, 1)) for index in range(12)]

        assert {(0, 1), (1, 0)} == set(rounds)


class TestGuards:
    """What keeps a run from going wrong."""

    def test_the_gate_leaves_everything_as_it_was(self, make_problem: MakeProblem) -> None:
        """Also the momentum; the rejection is counted."""
        problem, chosen = make_problem(), method("datm", threshold=1e-9)
        state = start(chosen, problem)
        new, metrics = step(chosen, problem, state)

        assert metrics["gated"] == 1
        assert metrics["loss"] > 1e-9
        assert all(torch.equal(state[name], new[name]) for name in state if name != "counts")

    def test_a_run_in_which_nothing_was_learned_is_no_result(self, make_problem: MakeProblem) -> None:
        """Every step gated: exit 5, naming the threshold."""
        with pytest.raises(DivergedError, match="none of 3 steps changed anything: 3 had a loss above threshold 1e-09"):
            run(method("datm", threshold=1e-9), make_problem())

    @pytest.mark.fault(74)
    def test_a_step_size_that_becomes_negative_ends_the_run(self, make_problem: MakeProblem) -> None:
        """Exit 5: a matter of this run, not of a file; naming the option."""
        with pytest.raises(DivergedError, match=r"learned step size became -.*, expected a positive number") as caught:
            run(method("mtt", lr_lr=1e6, steps=50), make_problem())
        assert (5, "lr_lr") == (caught.value.exit_code, caught.value.field)

    @pytest.mark.fault(74)
    def test_a_step_size_that_vanishes_ends_the_run(self, make_problem: MakeProblem) -> None:
        """Its logarithm may go anywhere."""
        with pytest.raises(DivergedError, match=r"learned step size became .*e-\d+, expected a positive number"):
            run(method("mtt", lr_param="log", lr_lr=1e3, steps=50), make_problem())

    def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next one goes on from the same state."""
        problem, chosen = make_problem(), method("mtt", steps=4)
        calls = []

        def broken_once(unrolled: Unrolled, unroll: str, *, tesla_scale: float) -> Matched:
            calls.append(unrolled)
            good = match(unrolled, unroll, tesla_scale=tesla_scale)
            return Matched(good.loss, good.images * (math.nan if len(calls) == 2 else 1), good.logits, good.lr)

        monkeypatch.setattr(_trajectory, "match", broken_once)
        states: list[State] = []
        distilled = run(chosen, problem, on_checkpoint=lambda done, state: states.append(state))

        assert distilled.metrics["skipped_steps"] == 1
        assert torch.equal(states[0]["images"], states[1]["images"])
        assert not torch.equal(states[1]["images"], states[2]["images"])

    def test_many_such_steps_in_a_row_end_the_run(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Naming the options to lower."""

        def broken(unrolled: Unrolled, unroll: str, *, tesla_scale: float) -> Matched:
            del unroll, tesla_scale
            return Matched(torch.tensor(math.inf), unrolled.images, None, torch.tensor(0.0))

        monkeypatch.setattr(_trajectory, "match", broken)
        with pytest.raises(DivergedError, match="no finite gradient in 20 steps up to step 20 of 50") as caught:
            run(method("mtt", steps=50), make_problem())
        assert "--set syn_lr" in str(caught.value.hint)

    def test_a_step_size_that_turns_negative_ends_the_run(self, make_problem: MakeProblem) -> None:
        """The reference goes on; here the option to lower is named."""
        with pytest.raises(DivergedError, match=r"learned step size became .*, expected a positive number") as caught:
            run(method("mtt", lr_lr=1e4, steps=50), make_problem())
        assert "lr_param=log" in str(caught.value.hint)

    def test_the_logarithm_stays_positive(self, make_problem: MakeProblem) -> None:
        """And moves by the chain rule: d loss / d ln b = b d loss / d b."""
        problem = make_problem()
        raw, log = method("mtt", lr_lr=0.02), method("mtt", lr_lr=0.02, lr_param="log")
        moved_raw = float(step(raw, problem, start(raw, problem))[0]["lr"]) - 0.05
        moved_log = float(step(log, problem, start(log, problem))[0]["lr"]) - math.log(0.05)

        assert moved_log == pytest.approx(0.05 * moved_raw, rel=1e-2)

    def test_limits_of_the_step_size_are_kept_and_counted(self, make_problem: MakeProblem) -> None:
        """In either parametrisation."""
        for how in ("raw", "log"):
            options = {"lr_param": how, "syn_lr_min": 0.049, "syn_lr_max": 0.051, "lr_lr": 10.0}
            distilled = run(method("mtt", **options), make_problem())
            assert distilled.lr is not None
            assert 0.049 * (1 - 1e-5) <= distilled.lr <= 0.051 * (1 + 1e-5)
            assert distilled.metrics["clamped_steps"] > 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_start_epoch": 4}, "need epochs 0 to 5, the experts recorded 0 to 4"),
            ({"min_start_epoch": 2}, "min_start_epoch 2, max_start_epoch 2, expected them to ascend"),
            ({"current_max_start_epoch": 3}, "current_max_start_epoch 3, max_start_epoch 2, expected them to ascend"),
            ({"interval": 3}, "interval is 3 and the start range ends at 2 from the beginning"),
            ({"syn_lr_min": 0.2, "syn_lr_max": 0.1}, "syn_lr is 0.05, expected between syn_lr_min 0.2 and"),
            ({"mask": "none", "mask_shallow": 0.5}, "mask_shallow is 0.5 and mask is 'none'"),
            ({"mask": "deep"}, "mask is 'deep' and mask_shallow 0"),
            ({"tesla_scale": 0.5}, "tesla_scale is 0.5 and unroll 'adjoint'"),
            ({"unroll": "tesla", "inner_momentum": 0.9}, "unroll is 'tesla' with inner_momentum"),
            ({"soft_labels": True, "teacher_label": True}, "soft_labels and teacher_label are both on"),
        ],
    )
    def test_options_that_cannot_work_are_refused_before_any_step(
        self, options: dict[str, Any], message: str, make_problem: MakeProblem
    ) -> None:
        """Both sides are named."""
        with pytest.raises(UsageError, match=message):
            run(method("mtt", **options), make_problem())

    def test_an_expert_that_stands_still_is_named(self, make_problem: MakeProblem) -> None:
        """D0 = 0 would divide by nothing."""
        problem = make_problem()
        source = problem.trajectories
        assert source is not None

        class Still:
            arch, epochs, teachers, name = source.arch, source.epochs, source.teachers, source.name

            def __len__(self) -> int:
                return 1

            def checkpoint(self, expert: int, epoch: int) -> Tensor:
                del epoch
                return source.checkpoint(expert, 0)

        with pytest.raises(BundleError, match=r"'trajectory.0' does not move from epoch \d to its target"):
            run(method("mtt"), make_problem(trajectories=Still()))


class TestStart:
    """Where images and labels begin."""

    def test_labels_average_the_experts_that_are_right(self) -> None:
        """Two experts, four images: both right, one right, none right but the mean is, none."""
        first = torch.tensor([[3.0, 0, 0], [2.0, 0, 0], [1.0, 1.5, 0], [0, 5.0, 0]])
        second = torch.tensor([[5.0, 0, 0], [0, 4.0, 0], [1.0, 0, 1.4], [0, 0, 7.0]])
        labels = torch.zeros(4, dtype=torch.long)
        right = torch.stack([logits.argmax(1) == labels for logits in (first, second)]).double().unsqueeze(2)
        stacked = torch.stack([first, second]).double()
        made = average_right(stacked.sum(0), (right * stacked).sum(0), right.sum(0), 2, labels)

        assert [4.0, 0, 0] == made[0].tolist()
        assert [2.0, 0, 0] == made[1].tolist()
        assert [1.0, 0.75, 0.7] == pytest.approx(made[2].tolist())
        assert [3.5, 0, 0] == made[3].tolist()

    def test_every_initial_label_has_its_class_on_top(self, make_problem: MakeProblem) -> None:
        """Whether or not an expert is right."""
        problem = make_problem()
        images = initial_images(problem, "real", generator(0, "init"))
        logits = initial_logits(problem, images, every=True)

        assert logits.argmax(dim=1).tolist() == [0] * 4 + [1] * 4 + [2] * 4

    def test_one_expert_labels_images_that_were_not_chosen_by_them(self, make_problem: MakeProblem) -> None:
        """Whatever it says: DATM's plain initialisation."""
        problem = make_problem()
        images = initial_images(problem, "real", generator(0, "init"))
        first = next(_initial._experts(problem))

        assert torch.allclose(first(images), initial_logits(problem, images, every=False))

    def test_correct_images_are_taken_from_the_first_expert_that_is_right(
        self, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Random experts miss many images; one that knows the colours finds them all, and none is taken twice."""
        problem, wrong = make_problem(ipc=7), list(_initial._experts(make_problem()))
        monkeypatch.setattr(_initial, "_experts", lambda problem: iter([*wrong, Colour()]))
        images = initial_images(problem, "correct", generator(0, "init"))

        assert Colour()(images).argmax(dim=1).tolist() == [0] * 7 + [1] * 7 + [2] * 7
        assert len({tuple(image.flatten().tolist()) for image in images}) == 21

    def test_too_few_correct_images_name_the_class(self, make_problem: MakeProblem) -> None:
        """Experts that walked at random know some class badly."""
        with pytest.raises(UsageError, match=r"classify \d+ images of class '\w+' correctly, --ipc asks for 7"):
            initial_images(make_problem(ipc=7), "correct", generator(0, "init"))

    def test_kmeans_starts_from_different_real_images(self, make_problem: MakeProblem) -> None:
        """One per centre."""
        problem = make_problem()
        images = initial_images(problem, "kmeans", generator(0, "init"))
        real = {tuple(image.flatten().tolist()) for image in problem.space.encode(problem.pixels)}

        assert len({tuple(image.flatten().tolist()) for image in images} & real) == 12

    def test_noise_is_normal(self, make_problem: MakeProblem) -> None:
        """Mean 0, deviation 1."""
        images = initial_images(make_problem(), "noise", generator(0, "init"))

        assert abs(float(images.mean())) < 0.1
        assert float(images.std()) == pytest.approx(1, abs=0.1)

    def test_perturbation_leaves_all_but_convolutions_alone(self) -> None:
        """And moves a convolution by a / sqrt(its size) of itself on average."""
        net = build("convnet-d1-w4", channels=3, size=8, classes=3, generator=generator(0, "net"))
        theta = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        moved = perturbed(net, theta, 1.0, generator(0, "noise"))
        size = net.blocks[0].conv.weight.numel()  # type: ignore[union-attr,index]
        change = (moved[:size] / theta[:size] - 1).detach()

        assert torch.equal(theta[size:], moved[size:])
        assert float(change.norm()) == pytest.approx(1.0, rel=1e-4)

    def test_the_balance_is_least_in_the_middle(self) -> None:
        """log5(8) = 1.29 at the middle, its inverse just below."""
        assert balance(10, 20) == pytest.approx(1.292, abs=1e-3)
        assert balance(9, 20) == pytest.approx(1 / math.log(9, 5))
        assert balance(15, 20) == pytest.approx(math.log(13, 5))


class Colour(nn.Module):
    """Answers the brightest channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean(dim=(2, 3))
