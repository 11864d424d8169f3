"""Trajectory matching, as MTT, TESLA, FTD, AST, DATM and PAD share it: one step, in pieces that others can use.

Each step starts a student at a checkpoint of an expert, trains it N steps on the distilled images, and moves images,
step size and soft labels so that the student ends near the expert's checkpoint M epochs later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from .. import seeding
from ..augment._augment import Step
from ..augment._augment import build as build_augmentation
from ..errors import DivergedError, UsageError
from ..nets._net import mixes_samples
from ._initial import initial_images, initial_logits
from ._memory import net_bytes, second_order_bytes, set_bytes
from ._method import Distilled, Problem, State, TrajectorySource
from ._real import class_labels, net_on_meta, random_net
from ._rules import balance, check_progress, draw_batches, mask_of, outputs, perturbed, upper_start
from ._trajectory_options import TrajectoryOptions
from ._unroll import Matched, Unrolled, Waypoint, images_per_graph, match

__all__ = ["TrajectoryMatching"]

INTERVAL = 100
"""Outer steps after which DATM's start range grows by an epoch."""
LEAST_LR = 1e-10
"""A smaller step size of the student moves nothing in float32."""
MAX_SKIPPED = 20
"""Steps in a row without a finite gradient after which a run has diverged."""
VECTORS = 8
"""Vectors of parameters that a step holds beside those of the student's steps."""
GATED, SKIPPED, IN_A_ROW, CLAMPED = range(4)
"""Places in the state's `counts`."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryMatching(TrajectoryOptions):
    """Trajectory matching as a method: what it starts from, one outer step, and its result."""

    needs: ClassVar[frozenset[str]] = frozenset({"trajectories"})
    memory_knobs: ClassVar[tuple[str, ...]] = ("microbatch", "batch_syn", "syn_steps")

    def total_steps(self, problem: Problem) -> int:
        """The option `steps`."""
        del problem
        return self.steps

    def memory(self, problem: Problem, *, mixes: bool = False) -> int:
        """Peak bytes of a step: the student's parameters after each step, one micro-batch of graph, and the images.

        With `unroll=full` the graph holds every image of every step; where the loss mixes the samples of a batch, as
        batch norm does, it holds a whole batch.
        """
        images = len(problem.classes) * problem.ipc
        batch = min(self.batch_syn or images, images)
        mixes = mixes or mixes_samples(net_on_meta(problem))
        at_once = images_per_graph(mixes, batch, self.microbatch, problem.device)
        if self.unroll == "full":
            at_once = batch * self.syn_steps
        kept = (self.syn_steps + 1) * (2 if self.inner_momentum or self.unroll == "full" else 1)
        return net_bytes(problem, kept + VECTORS) + second_order_bytes(problem) * at_once + set_bytes(problem)

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Initial images, step size and, when they are learned, soft labels.

        Raises:
            UsageError: the experts know too few images of a class for `init=correct`.
        """
        state = self.begin(problem, initial_images(problem, self.init, generator), self.syn_lr, generator)
        if self.soft_labels:
            every = self.init == "correct"
            logits = initial_logits(problem, problem.canvas.render(state), every=every).to(problem.device)
            state |= {"logits": logits, "logits_velocity": torch.zeros_like(logits)}
        return state

    def begin(self, problem: Problem, images: Tensor, rate: float, generator: Generator) -> State:
        """The state at given images (k*ipc, c, h, w) and a step size of the student, without soft labels."""
        state = problem.canvas.begin(images, class_labels(problem), generator)
        state |= {
            "lr": torch.tensor(self._as_parameter(rate)),
            "lr_velocity": torch.tensor(0.0),
            "counts": torch.zeros(4, dtype=torch.long),
        }
        if self.ema:
            state["average"] = problem.canvas.render(state).clone()
        return state

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Train one student and move everything that is learned; a step without a finite gradient changes nothing."""
        run = self.student(problem, state, index, generator)
        matched = match(run, self.unroll, tesla_scale=self.tesla_scale)
        counts, stays = self.judge(state, run, matched, index)
        if stays is not None:
            return {**state, "counts": counts}, stays
        return self.move(problem, state, run, matched, counts)

    def judge(
        self, state: State, run: Unrolled, matched: Matched, index: int
    ) -> tuple[Tensor, dict[str, float] | None]:
        """Whether a step may change anything: its new counts, and where it may not, the metrics it ends with.

        It may not without a finite gradient, nor with a loss above the threshold.

        Raises:
            DivergedError: there was no finite gradient for many steps.
        """
        loss, rate, counts = float(matched.loss), float(run.lr), state["counts"].clone()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in matched.tensors()):
            counts[SKIPPED] += 1
            counts[IN_A_ROW] += 1
            self._check_alive(int(counts[IN_A_ROW]), loss, rate, index)
            return counts, {"lr": rate, "skipped": float(counts[SKIPPED])}
        counts[IN_A_ROW] = 0
        if self.threshold is not None and loss > self.threshold:
            counts[GATED] += 1
            return counts, {"loss": loss, "lr": rate, "gated": float(counts[GATED])}
        return counts, None

    def move(
        self, problem: Problem, state: State, run: Unrolled, matched: Matched, counts: Tensor
    ) -> tuple[State, dict[str, float]]:
        """Move images, step size and soft labels against their gradients."""
        moved = problem.canvas.descend(state, matched.images, lr=self.lr_images, momentum=self.momentum)
        moved |= self._move_lr(state, matched, float(run.lr), counts)
        new = {**state, **moved, **self._move_logits(state, matched), "counts": counts}
        if self.ema:
            new["average"] = self.ema * state["average"] + (1 - self.ema) * problem.canvas.render(new)
        metrics = {"loss": float(matched.loss), "lr": self.rate(new)}
        return new, metrics | ({"clamped": float(counts[CLAMPED])} if counts[CLAMPED] else {})

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The last images, or their average; the learned step size and soft labels; what was skipped.

        Raises:
            DivergedError: no step changed anything.
        """
        images = state["average"] if self.ema else problem.canvas.render(state)
        counts = self.check_moved(state)
        return Distilled(
            labels=class_labels(problem),
            images=images.cpu(),
            logits=state["logits"].cpu() if self.soft_labels else None,
            lr=self.rate(state),
            metrics=counts,
        )

    def check_moved(self, state: State) -> dict[str, int]:
        """How many steps were gated, skipped and clamped.

        Raises:
            DivergedError: no step changed anything.
        """
        counts = state["counts"].tolist()
        if counts[GATED] + counts[SKIPPED] >= self.steps:
            raise DivergedError(
                f"none of {self.steps} steps changed anything: {counts[GATED]} had a loss above threshold "
                f"{self.threshold}, {counts[SKIPPED]} no finite gradient",
                field="threshold",
                hint=f"raise --set threshold, or lower --set syn_lr (now {self.syn_lr:g})",
            )
        return {
            "gated_steps": counts[GATED],
            "skipped_steps": counts[SKIPPED],
            "clamped_steps": counts[CLAMPED],
        }

    def student(self, problem: Problem, state: State, index: int, generator: Generator) -> Unrolled:
        """The student of an outer step: where it starts, what it should reach, what it sees."""
        source = _source(problem)
        expert = self._expert(problem, index)
        start_epoch = self._start_epoch(index, generator)
        start = self._load(problem, expert, start_epoch)
        waypoints = self._waypoints(problem, expert, start_epoch)
        net = random_net(problem, generator).requires_grad_(False)
        images, hard = problem.canvas.render(state), class_labels(problem).to(problem.device)
        if self.teacher_label:
            logits: Tensor | None = outputs(net, waypoints[-1].parameters, images)
        else:
            logits = state.get("logits")
        size = min(self.batch_syn or len(images), len(images))
        batches = draw_batches(len(images), size, self.syn_steps, generator)
        augmentation = build_augmentation(self.augment, flip=problem.flip)
        height, width = images.shape[2:]
        draws: tuple[tuple[Step, ...], ...] = tuple(
            augmentation.draw(len(batch), height, width, generator) for batch in batches
        )
        if self.perturb:
            start = perturbed(net, start, self.perturb, generator)
        check_progress(source.name(expert), start_epoch, start, waypoints)
        return Unrolled(
            net=net,
            images=images,
            labels=hard,
            logits=logits,
            start=start,
            waypoints=waypoints,
            lr=self.rate(state),
            batches=batches,
            draws=draws,
            momentum=self.inner_momentum,
            loss_scale=balance(start_epoch, self.max_start_epoch) if self.balanced else 1.0,
            mask=mask_of(self.mask, self.mask_shallow),
            microbatch=self.microbatch,
        )

    def _expert(self, problem: Problem, index: int) -> int:
        """Experts in random order, each once per round."""
        count = len(_source(problem))
        order = torch.randperm(count, generator=seeding.generator(problem.seed, "distill", "experts", index // count))
        return int(order[index % count])

    def _start_epoch(self, index: int, generator: Generator) -> int:
        """Uniform from T- to U(it), exclusive."""
        upper = upper_start(
            index, first=self.first_upper(), last=self.max_start_epoch, interval=self.interval or INTERVAL
        )
        return int(torch.randint(self.min_start_epoch, upper, (1,), generator=generator))

    def _load(self, problem: Problem, expert: int, epoch: int) -> Tensor:
        return _source(problem).checkpoint(expert, epoch).to(problem.device)

    def _waypoints(self, problem: Problem, expert: int, start: int) -> tuple[Waypoint, ...]:
        """The target after the last step, and AST's epochs in between."""
        steps, epochs = self.syn_steps, self.expert_epochs
        between = []
        if self.intermediate != "none":
            for k in range(1, epochs):
                weight = 1.0 if self.intermediate == "unit" else k / epochs
                between.append(Waypoint(steps // epochs * k, self._load(problem, expert, start + k), weight))
        return (*between, Waypoint(steps, self._load(problem, expert, start + epochs)))

    def rate(self, state: State) -> float:
        value = float(state["lr"])
        return math.exp(value) if self.lr_param == "log" else value

    def _move_lr(self, state: State, matched: Matched, rate: float, counts: Tensor) -> State:
        """One step on the student's step size (or its logarithm), kept within its limits."""
        gradient = matched.lr.detach().float() * (rate if self.lr_param == "log" else 1.0)
        velocity = self.momentum * state["lr_velocity"] + gradient.to(state["lr_velocity"].device)
        value = state["lr"] - self.lr_lr * velocity
        limits = [None if limit is None else self._as_parameter(limit) for limit in (self.syn_lr_min, self.syn_lr_max)]
        kept = value if limits == [None, None] else value.clamp(min=limits[0], max=limits[1])
        counts[CLAMPED] += int(kept != value)
        new = math.exp(float(kept)) if self.lr_param == "log" else float(kept)
        if new < LEAST_LR:
            raise DivergedError(
                f"the learned step size became {new:g}, expected a positive number",
                field="lr_lr",
                hint=f"lower --set lr_lr (now {self.lr_lr:g}), or use --set lr_param=log or --set syn_lr_min",
            )
        return {"lr": kept, "lr_velocity": velocity}

    def _as_parameter(self, rate: float) -> float:
        return math.log(rate) if self.lr_param == "log" else rate

    def _move_logits(self, state: State, matched: Matched) -> State:
        if not self.soft_labels or matched.logits is None:
            return {}
        velocity = self.momentum_label * state["logits_velocity"] + matched.logits
        return {"logits": state["logits"] - self.lr_label * velocity, "logits_velocity": velocity}

    def _check_alive(self, in_a_row: int, loss: float, rate: float, index: int) -> None:
        if in_a_row >= MAX_SKIPPED:
            raise DivergedError(
                f"no finite gradient in {in_a_row} steps up to step {index + 1} of {self.steps} "
                f"(loss {loss}, student's step size {rate:g})",
                field="syn_lr",
                hint=f"lower --set syn_lr (now {self.syn_lr:g}) or lr_lr, or use lr_param=log",
            )

    def check(self, problem: Problem) -> None:
        """What the options ask of the experts, and of each other.

        Raises:
            UsageError: start epochs that the experts did not record, and options that exclude each other or have no
                effect: all problems in one error.
        """
        source, mixes = _source(problem), mixes_samples(net_on_meta(problem))
        problems = self.contradictions(source.epochs, problem.arch, mixes=mixes)
        if problems:
            raise UsageError.collect(problems)


def _source(problem: Problem) -> TrajectorySource:
    if problem.trajectories is None:
        raise ValueError("a method that matches trajectories must need them")
    return problem.trajectories
