"""Learning labels by trajectory matching: what a step moves and what it leaves, on experts that were trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ddlabel.distill._initial import initial_logits
from ddlabel.distill._method import Problem, State, run
from ddlabel.distill._unroll import match
from ddlabel.errors import DivergedError, UsageError
from ddlabel.nets._net import build
from ddlabel.refine._feature_options import Lesson
from ddlabel.refine._learner import Learned
from ddlabel.refine._trajectory_learner import DatmLearning, MttLearning, TrajectoryLearning
from ddlabel.seeding import generator
from ddlabel.trajectories import flatten

from ..distill.conftest import blobs, make_problem

__all__ = ["make_problem"]

ARCH = "convnet-d2-w8-instance"
SMALL: dict[str, Any] = {
    "steps": 3, "syn_steps": 4, "expert_epochs": 2, "max_start_epoch": 2, "batch_syn": 5, "lambda_task": 0.0,
    "threshold": None,
}  # fmt: skip
MakeLesson = Callable[..., Lesson]


@cache
def trained(arch: str) -> Tensor:
    """(5, P): an expert's parameters at the start and after four epochs of ten steps on all blobs."""
    pixels, labels = blobs()
    images = (pixels.float() / 255 - 0.5) / 0.25
    net = build(arch, channels=3, size=8, classes=3, generator=generator(0, "expert"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    rows = [flatten(net)]
    for _epoch in range(4):
        for _step in range(10):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        rows.append(flatten(net))
    return torch.stack(rows)


class Expert:
    """One trained expert."""

    epochs = range(5)
    teachers = ()

    def __init__(self, arch: str = ARCH) -> None:
        self.arch, self.rows = arch, trained(arch)

    def __len__(self) -> int:
        return 1

    def checkpoint(self, expert: int, epoch: int) -> Tensor:
        del expert
        return self.rows[epoch]

    def name(self, expert: int) -> str:
        return f"'expert {expert}'"


class Experts(Expert):
    """Three of them."""

    def __len__(self) -> int:
        return 3


@pytest.fixture
def make_lesson(make_problem: Callable[..., Problem]) -> MakeLesson:
    """Twelve images of blobs, four of each class, whose features are to be learned."""

    def make(**changes: Any) -> Lesson:
        problem = make_problem(arch=ARCH, trajectories=Expert())
        own = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
        pixels, labels = blobs()
        chosen = torch.cat([(labels == label).nonzero().flatten()[:4] for label in range(3)])
        images = problem.space.encode(pixels[chosen])
        return Lesson(**{**own, "images": images, "kind": "feature", **changes})

    return make


def learner(kind: type[TrajectoryLearning] = MttLearning, **options: Any) -> TrajectoryLearning:
    return kind(**{**SMALL, **options})


def start(chosen: TrajectoryLearning, lesson: Lesson) -> State:
    return chosen.prepare(lesson, generator(lesson.seed, "distill", "prepare"))


def step(chosen: TrajectoryLearning, lesson: Lesson, state: State, index: int = 0) -> tuple[State, dict[str, float]]:
    return chosen.step(lesson, state, index, generator(lesson.seed, "distill", "step", index))


def learn(chosen: TrajectoryLearning, lesson: Lesson, **others: Any) -> Learned:
    found = run(chosen, lesson, **others)
    assert isinstance(found, Learned)
    return found


class TestMoves:
    """What one step moves, and against what."""

    def test_labels_alone_move_unless_images_are_tuned(self, make_lesson: MakeLesson) -> None:
        """Frozen images are not even in the state; the step size stays."""
        lesson, chosen = make_lesson(), learner()
        state = start(chosen, lesson)
        new, metrics = step(chosen, lesson, state)

        changed = {name for name in state if not torch.equal(state[name], new[name])}
        assert changed == {"features", "features_velocity", "features_square", "features_count"}
        assert not {"images", "velocity", "logits"} & set(state)
        assert metrics["loss"] > 0
        assert 0.001 < metrics["movement"] < 0.05
        assert learn(chosen, lesson).images is None

    @pytest.mark.parametrize("weight", [0.0, 0.7])
    def test_tuned_images_move_as_the_method_moves_them(self, weight: float, make_lesson: MakeLesson) -> None:
        """One backward pass (the trap of two): with lambda_reg 0 every bit is the method's own, the task or not."""
        lesson, chosen = make_lesson(lr=0.03), learner(tune_images=True, lambda_reg=0.0, lambda_task=weight)
        state, method = start(chosen, lesson), chosen.method(lesson)
        own = method.begin(lesson, lesson.images, 0.03, generator(0, "none"))
        expected, _metrics = method.step(lesson, own, 0, generator(lesson.seed, "distill", "step", 0))
        new, metrics = step(chosen, lesson, state)

        assert all(torch.equal(new[name], value) for name, value in expected.items())
        assert not torch.equal(new["images"], lesson.images)
        assert float(new["lr"]) != float(state["lr"])
        assert metrics["lr"] == pytest.approx(float(new["lr"]))
        assert torch.equal(new["features"], state["features"]) == (weight == 0)

    def test_datm_tunes_soft_labels_too(self, make_lesson: MakeLesson) -> None:
        """From those of the bundle, and hands everything out."""
        logits = torch.randn(12, 3, generator=generator(0, "logits"))
        lesson, chosen = make_lesson(lr=0.03, logits=logits), learner(DatmLearning, tune_images=True, lr_lr=1e-3)
        assert torch.equal(start(chosen, lesson)["logits"], logits)
        found = learn(chosen, lesson)

        assert found.logits is not None
        assert found.images is not None
        assert not torch.equal(found.logits, logits)
        assert not torch.equal(found.images, lesson.images)
        assert found.lr not in {None, 0.03}

    def test_labels_move_against_the_exact_gradient(self, make_lesson: MakeLesson) -> None:
        """By SGD of one rate: that of `match`, and the task's times its weight."""
        lesson, sgd = make_lesson(), {"feat_opt": "sgd", "lr_feat": 2.0, "momentum_feat": 0.0}
        gradients = {}
        for weight in (0.0, 0.3):
            chosen = learner(lambda_task=weight, **sgd)
            state = start(chosen, lesson)
            gradients[weight] = (state["features"] - step(chosen, lesson, state)[0]["features"])[0] / 2.0
        known = {**state, "images": lesson.images}
        unrolled = chosen.method(lesson).student(lesson, known, 0, generator(lesson.seed, "distill", "step", 0))
        unrolled = dataclasses.replace(
            unrolled, privileged=chosen._privileged(lesson, state, state["features"].mean(0))
        )
        matched = match(unrolled)
        assert matched.privileged is not None
        pull = chosen.task(lesson, unrolled, matched).gradient

        torch.testing.assert_close(gradients[0.0], matched.privileged, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(gradients[0.3] - gradients[0.0], 0.3 * pull, rtol=1e-3, atol=1e-6)
        assert float(matched.privileged.abs().max()) > 1e-5
        assert float(pull.abs().max()) > 1e-3

    def test_the_task_is_a_mean_over_steps_of_the_students_own_heads(self, make_lesson: MakeLesson) -> None:
        """By hand: the net of every step reads its batch; more steps do not make the term larger."""
        lesson, tasks = make_lesson(), []
        for steps in (1, 4, 12):
            chosen = learner(lambda_task=1.0, syn_steps=steps)
            state = start(chosen, lesson)
            labels = state["features"].mean(0)
            unrolled = chosen.method(lesson).student(
                lesson, {**state, "images": lesson.images}, 0, generator(0, "student")
            )
            unrolled = dataclasses.replace(unrolled, privileged=chosen._privileged(lesson, state, labels))
            matched = match(unrolled)
            found = chosen.task(lesson, unrolled, matched)
            net, leaf = build(ARCH, channels=3, size=8, classes=3, generator=generator(0, "net")), labels.clone()
            losses, leaf = [], leaf.requires_grad_(True)
            for theta, batch in zip(matched.path, unrolled.batches, strict=False):
                torch.nn.utils.vector_to_parameters(theta, net.parameters())
                weight, bias = (
                    parameter.detach().clone() for parameter in net.get_submodule("classifier").parameters()
                )
                logits = torch.nn.functional.linear(leaf[batch].flatten(1), weight, bias)
                losses.append(torch.nn.functional.cross_entropy(logits, lesson.hard[batch]))
            mean = sum(losses) / steps
            assert isinstance(mean, Tensor)
            assert len(losses) == steps
            assert found.loss == pytest.approx(float(mean.detach()), rel=1e-5)
            torch.testing.assert_close(found.gradient, torch.autograd.grad(mean, leaf)[0], rtol=1e-4, atol=1e-6)
            tasks.append(found.loss)

        assert max(tasks) < 2 * min(tasks)

    def test_a_large_task_weight_makes_labels_readable(self, make_lesson: MakeLesson) -> None:
        """Noise read by the heads of experts: the task falls, and by more than without."""
        lesson = make_lesson()
        chosen = learner(init="noise", lambda_task=10.0, lr_feat=0.1)
        state, tasks = start(chosen, lesson), []
        for _again in range(10):
            state, metrics = step(chosen, lesson, state)
            tasks.append(metrics["task"])

        assert tasks[-1] < 0.5 * tasks[0]

    def test_attention_labels_have_no_task(self, make_lesson: MakeLesson) -> None:
        """The default is off for them, a weight is refused."""
        lesson = make_lesson(kind="attention")
        chosen = learner(lambda_task=None)
        chosen.check(lesson)
        metrics = step(chosen, lesson, start(chosen, lesson))[1]
        assert "task" not in metrics
        with pytest.raises(UsageError, match=r"lambda_task is 0\.5"):
            learner(lambda_task=0.5).check(lesson)

    @pytest.mark.parametrize(("weight", "share"), [(0.5, 0.01), pytest.param(5.0, 0.05, marks=pytest.mark.slow)])
    def test_twenty_steps_on_a_fixed_student_lower_its_loss(
        self, weight: float, share: float, make_lesson: MakeLesson
    ) -> None:
        """T13: Adam at its default, start and batches fixed; labels move by 1 to 30 % rms."""
        lesson, chosen = make_lesson(lr=0.05), learner(syn_steps=5, lambda_reg=weight)
        state, losses, movement = start(chosen, lesson), [], 0.0
        for _again in range(20):
            state, metrics = step(chosen, lesson, state)
            losses.append(metrics["loss"])
            movement = metrics["movement"]

        assert losses[-1] < (1 - share) * losses[0]
        assert 0.01 <= movement <= 0.3

    @pytest.mark.parametrize("scale", [1e-9, 1e3])
    def test_adam_does_not_know_how_large_gradients_are(self, scale: float, make_lesson: MakeLesson) -> None:
        """At width 128 and lambda_reg 0.0005 they are 1e-12: torch's 1e-8 in the quotient would stop the labels."""
        chosen = learner()
        state = start(chosen, make_lesson())
        gradient = 1e-3 * torch.randn(state["features"].shape, generator=generator(0, "gradient"))
        moves = [chosen.move_labels(state, factor * gradient)["features"] for factor in (1.0, scale)]
        torch.testing.assert_close(*moves, rtol=1e-5, atol=1e-7)
        assert 0.005 < float((moves[0] - state["features"]).square().mean().sqrt() / state["features"].std()) < 0.05


class TestCopies:
    """K labels of each image."""

    def test_three_by_sgd_are_one_with_a_third_of_the_step(self, make_lesson: MakeLesson) -> None:
        """T7: from the mean of the three."""
        lesson, sgd = make_lesson(lr=0.05), {"feat_opt": "sgd", "momentum_feat": 0.5}
        three, one = learner(k=3, lr_feat=15.0, **sgd), learner(lr_feat=5.0, **sgd)
        states = [start(three, lesson), start(one, lesson)]
        states[1] = {**states[1], "features": states[0]["features"].mean(0, keepdim=True)}
        before = states[1]["features"]
        for index in range(3):
            states = [step(chosen, lesson, state, index)[0] for chosen, state in zip((three, one), states, strict=True)]
        after = [state["features"].mean(0) for state in states]

        torch.testing.assert_close(after[0], after[1], rtol=0, atol=1e-5)
        assert float((after[1] - before[0]).abs().max()) > 1e-2

    def test_each_copy_gets_the_same_share_of_the_mean(self, make_lesson: MakeLesson) -> None:
        """g / K, whatever it started as."""
        lesson, chosen = make_lesson(), learner(k=2, feat_opt="sgd", lr_feat=5.0, momentum_feat=0.0)
        state = start(chosen, lesson)
        moved = step(chosen, lesson, state)[0]["features"] - state["features"]
        assert not torch.equal(state["features"][0], state["features"][1])
        torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-6)

    def test_a_random_copy_of_each_image_moves_alone(self, make_lesson: MakeLesson) -> None:
        """One k per image and outer step, of which students see nothing else."""
        lesson = make_lesson()
        chosen = learner(k=3, k_train="random", feat_opt="sgd", lr_feat=5.0, momentum_feat=0.0, syn_steps=6)
        state = start(chosen, lesson)
        seen = []
        for index in range(3):
            new = step(chosen, lesson, state, index)[0]
            moved = (new["features"] - state["features"]).flatten(2).abs().amax(2) > 0
            assert moved.sum(0).tolist() == [1] * 12
            seen.append(moved.float().argmax(0).tolist())
        assert seen[0] != seen[1]
        assert {0, 1, 2} == set(seen[0])

    def test_all_are_stored_or_their_mean(self, make_lesson: MakeLesson) -> None:
        """(n, K, *shape)."""
        shapes = [tuple(learn(learner(k=2, store=store), make_lesson()).values.shape) for store in ("mean", "all")]
        assert shapes == [(12, 1, 8, 2, 2), (12, 2, 8, 2, 2)]


class TestStart:
    """What students train on, and how fast."""

    def test_the_step_size_is_the_bundles_unless_given(self, make_lesson: MakeLesson) -> None:
        """Else the method's default."""
        assert learner().rate(make_lesson(lr=0.03)) == 0.03
        assert learner(syn_lr=0.2).rate(make_lesson(lr=0.03)) == 0.2
        assert learner().rate(make_lesson()) == 0.001
        assert learner(DatmLearning).rate(make_lesson()) == 0.01
        state = start(learner(lr_param="log"), make_lesson(lr=0.03))
        assert float(state["lr"].exp()) == pytest.approx(0.03)

    def test_datm_has_its_own_defaults(self) -> None:
        """Those of the method, without its choice of images."""
        chosen = DatmLearning()
        assert (chosen.steps, chosen.syn_steps, chosen.threshold, chosen.soft_labels) == (10000, 80, 1.0, True)
        assert (MttLearning().steps, MttLearning().syn_steps, MttLearning().threshold) == (5000, 30, None)
        assert chosen.init == "one-epoch"

    def test_datm_without_soft_labels_in_the_bundle_asks_the_experts_and_says_so(
        self, make_problem: Callable[..., Problem], make_lesson: MakeLesson
    ) -> None:
        """As DATM starts."""
        problem = make_problem()
        lesson, chosen = make_lesson(trajectories=problem.trajectories, arch=problem.arch), learner(DatmLearning)
        expected = initial_logits(lesson, lesson.images, every=True)
        assert torch.equal(start(chosen, lesson)["logits"], expected)
        assert any("those of the experts" in note for note in chosen.notes(lesson))
        learned = dataclasses.replace(lesson, logits=expected)
        assert any("the bundle's learned soft labels" in note for note in chosen.notes(learned))

    def test_the_gate_keeps_labels_as_they_were(self, make_lesson: MakeLesson) -> None:
        """With their buffers; a run of nothing else is no result."""
        lesson, chosen = make_lesson(), learner(threshold=1e-9, tune_images=True, lambda_task=0.5)
        state = start(chosen, lesson)
        new, metrics = step(chosen, lesson, state)
        assert metrics["gated"] == 1
        assert all(torch.equal(state[name], new[name]) for name in state if name != "counts")
        with pytest.raises(DivergedError, match="none of 3 steps changed anything"):
            learn(learner(threshold=1e-9), lesson)

    def test_experts_give_the_first_labels_too(self, make_lesson: MakeLesson) -> None:
        """init=teacher: no net is trained, and students of the experts learn on from there."""
        net = build(ARCH, channels=3, size=8, classes=3, generator=generator(4, "teacher")).eval()
        lesson, chosen = make_lesson(nets=(net,)), learner(init="teacher")
        chosen.check(lesson)
        state = start(chosen, lesson)

        assert torch.equal(state["features"][0], net.tap(lesson.images, 2)[0])
        assert not any("for an epoch" in note or "experts" in note for note in chosen.notes(lesson))
        more = make_lesson(nets=(net,), trajectories=Experts())
        assert "first labels: by the first 1 of 3 experts" in chosen.notes(more)
        assert learn(chosen, lesson).metrics["movement"] > 0
        with pytest.raises(UsageError, match="k 2, expected as many nets by --teacher, not 1"):
            learner(init="teacher", k=2).check(lesson)

    def test_a_soft_term_is_the_divergence_beside_the_class(self, make_lesson: MakeLesson) -> None:
        """CE(y) + w KL(p || q) and CE of the mixture, 1 + w times, differ by a constant of the student."""
        soft = torch.randn(12, 3, generator=generator(0, "soft")).log_softmax(1)
        lesson, chosen = make_lesson(soft=soft), learner(soft=0.7)
        known = {**start(chosen, lesson), "images": lesson.images}
        unrolled = chosen._with_soft(lesson, chosen.method(lesson).student(lesson, known, 0, generator(0, "s")))
        differences = []
        for index in range(2):
            logits = torch.randn(12, 3, generator=generator(0, "logits", index)).log_softmax(1)
            asked = torch.nn.functional.cross_entropy(logits, lesson.hard) + 0.7 * torch.nn.functional.kl_div(
                logits, soft, log_target=True, reduction="batchmean"
            )
            part = unrolled.parts(0, unrolled.images, unrolled.target())[0][1]
            whole = dataclasses.replace(part, target=unrolled.target(), weight=unrolled.loss_scale)
            differences.append(float(asked - whole.loss(logits)))
        assert differences[0] == pytest.approx(differences[1], abs=1e-5)

    def test_continuing_gives_the_same_bits(self, make_lesson: MakeLesson) -> None:
        """T12: two steps, the state, one more."""
        lesson, chosen = make_lesson(), learner(tune_images=True, k=2, k_train="random", lambda_task=0.1)
        states: list[State] = []
        whole = learn(chosen, lesson, on_checkpoint=lambda _done, state: states.append(state))
        rest = learn(chosen, lesson, start=(2, states[1]))
        assert torch.equal(whole.values, rest.values)
        assert whole.images is not None
        assert rest.images is not None
        assert torch.equal(whole.images, rest.images)

    def test_mirrored_labels_and_every_objective_run(self, make_lesson: MakeLesson) -> None:
        """Each changes the students that labels are learned by."""
        losses = []
        for options in ({}, {"label_aug": "hflip"}, {"norm": "zscore"}, {"infonce": 0.1}, {"layer": "1"}):
            chosen, lesson = learner(**options), make_lesson(lr=0.3)
            chosen.check(lesson)
            losses.append(step(chosen, lesson, start(chosen, lesson))[1]["loss"])
        assert len(set(losses)) == len(losses)


class TestRefusals:
    """What cannot work, before any work."""

    def test_experts_of_another_net_are_refused_with_advice(self, make_lesson: MakeLesson) -> None:
        """The labels must be features of the students' net."""
        lesson = make_lesson(arch="convnet-d2-w4-instance")
        with pytest.raises(UsageError, match="'expert 0' is of net 'convnet-d2-w8-instance'") as caught:
            learner().check(lesson)
        assert f"--arch {ARCH}" in str(caught.value.hint)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"task_head": "init"}, "task_head is 'init', but mtt reads labels by the net of every step"),
            ({"microbatch": 2, "infonce": 0.1}, "mmd, infonce and supcon compare whole batches"),
            ({"max_start_epoch": 4}, "need epochs 0 to 5, the experts recorded 0 to 4"),
            ({"feat_opt": "sgd"}, "expected lr_feat"),
            ({"momentum_feat": 0.9}, "momentum_feat is for sgd"),
            ({"label_aug": "hflip", "augment": "none"}, "no image is mirrored"),
            ({"syn_lr": 0.5, "syn_lr_max": 0.1}, "syn_lr is 0.5"),
        ],
    )
    def test_options_that_cannot_work_are_named(
        self, options: dict[str, Any], message: str, make_lesson: MakeLesson
    ) -> None:
        """With what was expected."""
        with pytest.raises(UsageError, match=message):
            learner(**options).check(make_lesson())

    def test_soft_labels_are_not_added_to_soft_labels(self, make_lesson: MakeLesson) -> None:
        """DATM has its own."""
        lesson = make_lesson(soft=torch.zeros(12, 3).log_softmax(1))
        with pytest.raises(UsageError, match="datm trains students on soft labels already"):
            learner(DatmLearning, soft=1.0).check(lesson)
        learner(soft=1.0).check(lesson)


def test_the_estimate_counts_labels_and_whole_batches(make_lesson: MakeLesson) -> None:
    """More labels, and objectives that compare a batch, take more."""
    lesson = make_lesson()
    noise = {"microbatch": 1, "init": "noise"}
    small = learner(**noise).memory(lesson)
    assert learner(**noise, k=4).memory(lesson) - small >= 3 * 7 * 4 * 12 * 32
    assert learner(**noise, infonce=0.1).memory(lesson) > small
    assert learner(microbatch=1).memory(lesson) > small
