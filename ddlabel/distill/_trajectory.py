"""Trajectory matching, as MTT, TESLA, FTD, AST, DATM and PAD share it: one record of options, one step.

Each step starts a student at a checkpoint of an expert, trains it N steps on the distilled images, and moves images,
step size and soft labels so that the student ends near the expert's checkpoint M epochs later.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from .. import seeding
from ..augment._augment import Step
from ..augment._augment import build as build_augmentation
from ..errors import DivergedError, UsageError
from ..nets._net import mixes_samples
from ..options import opt
from ._initial import initial_images, initial_logits
from ._memory import net_bytes, second_order_bytes, set_bytes
from ._method import Distilled, Problem, State, TrajectorySource
from ._real import class_labels, net_on_meta, random_net
from ._rules import balance, check_progress, draw_batches, mask_of, outputs, perturbed, upper_start
from ._unroll import Matched, Unrolled, Waypoint, images_per_graph, match

__all__ = ["TrajectoryMatching", "preset"]

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
class TrajectoryMatching:
    """The options of the family, with MTT's values for CIFAR-10 at 10 images per class."""

    needs: ClassVar[frozenset[str]] = frozenset({"trajectories"})
    grows: ClassVar[bool] = False
    """Whether the start range grows unless told otherwise."""
    memory_knobs: ClassVar[tuple[str, ...]] = ("microbatch", "batch_syn", "syn_steps")
    steps: int = opt(5_000, "outer steps, each of which trains one student", min=1, max=100_000_000)
    syn_steps: int = opt(30, "N: SGD steps of the student in each outer step", min=1, max=100_000)
    expert_epochs: int = opt(2, "M: expert epochs that the student's steps should cover", min=1, max=100_000)
    min_start_epoch: int = opt(0, "T-: earliest expert epoch that students start from", min=0)
    current_max_start_epoch: int | None = opt(
        None,
        "T: the start range ends before this epoch at first; auto is max_start_epoch, and half of it for datm and pad",
        min=1,
    )
    max_start_epoch: int = opt(20, "T+: the start range ends before this epoch", min=1)
    interval: int | None = opt(
        None, "outer steps after which the start range grows by an epoch; auto is 100, as datm and pad have it", min=1
    )
    batch_syn: int | None = opt(None, "b: distilled images per student step; auto takes all", min=1)
    lr_images: float = opt(100.0, "SGD step on images in model-input space", above=0)
    lr_lr: float = opt(1e-5, "SGD step on the student's step size", min=0)
    syn_lr: float = opt(0.001, "the student's step size at the start", above=0)
    momentum: float = opt(0.5, "momentum of images and step size", min=0, below=1)
    lr_param: str = opt("raw", "what lr_lr moves: the step size or its logarithm", choices=("raw", "log"))
    syn_lr_min: float | None = opt(None, "least step size of the student; auto is no limit", above=0)
    syn_lr_max: float | None = opt(None, "largest step size of the student; auto is no limit", above=0)
    init: str = opt(
        "real",
        "initial images: random real ones, noise, real ones that experts classify correctly (DATM), or those next to "
        "the k-means centres of an expert's logits (AST)",
        choices=("real", "noise", "correct", "kmeans"),
    )
    augment: str = opt("dsa", "augmentation of the student's batches", choices=("dsa", "none"))
    unroll: str = opt(
        "adjoint",
        "gradient through the student's steps: adjoint (exact, constant memory), full, or tesla (biased)",
        choices=("adjoint", "full", "tesla"),
    )
    tesla_scale: float = opt(1.0, "with unroll=tesla: 1 as in the formula, 0.5 as in the published code", above=0)
    teacher_label: bool = opt(False, "label the images with the target checkpoint in every step (TESLA)")
    microbatch: int | None = opt(None, "distilled images in one graph inside a student step; auto chooses", min=1)
    threshold: float | None = opt(None, "skip the update of an outer step whose loss is above; auto never", above=0)
    mask: str = opt(
        "depth",
        "which parameters mask_shallow drops: the shallowest (depth), those with the least error (loss), the deepest "
        "(deep), or none",
        choices=("depth", "loss", "deep", "none"),
    )
    mask_shallow: float = opt(0.0, "share of the parameters that are not matched (PAD's FIEM)", min=0, below=1)
    ema: float = opt(
        0.0, "decay of the average of images that is the result (FTD); 0 is the last images", min=0, below=1
    )
    soft_labels: bool = opt(False, "learn soft labels, as logits that experts initialise (DATM)")
    lr_label: float = opt(2.0, "SGD step on the logits of soft labels", min=0)
    momentum_label: float = opt(0.9, "momentum of the soft labels", min=0, below=1)
    perturb: float = opt(0.0, "relative noise on the student's initial convolution weights (AST takes 1)", min=0)
    inner_momentum: float = opt(0.0, "momentum of the student (AST takes 0.9)", min=0, below=1)
    balanced: bool = opt(False, "scale the student's loss by its start epoch (AST)")
    intermediate: str = opt(
        "none",
        "also match the expert epochs in between: with weight 1 (unit), or growing towards the last (adaptive) (AST)",
        choices=("none", "unit", "adaptive"),
    )

    def total_steps(self, problem: Problem) -> int:
        """The option `steps`."""
        del problem
        return self.steps

    def memory(self, problem: Problem) -> int:
        """Peak bytes of a step: the student's parameters after each step, one micro-batch of graph, and the images.

        With `unroll=full` the graph holds every image of every step.
        """
        images = len(problem.classes) * problem.ipc
        batch = min(self.batch_syn or images, images)
        mixes = mixes_samples(net_on_meta(problem))
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
        images = initial_images(problem, self.init, generator)
        labels = class_labels(problem)
        state = problem.canvas.begin(images, labels, generator)
        rate = math.log(self.syn_lr) if self.lr_param == "log" else self.syn_lr
        state |= {
            "lr": torch.tensor(rate),
            "lr_velocity": torch.tensor(0.0),
            "counts": torch.zeros(4, dtype=torch.long),
        }
        if self.soft_labels:
            every = self.init == "correct"
            logits = initial_logits(problem, problem.canvas.render(state), every=every).to(problem.device)
            state |= {"logits": logits, "logits_velocity": torch.zeros_like(logits)}
        if self.ema:
            state["average"] = problem.canvas.render(state).clone()
        return state

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Train one student and move everything that is learned; a step without a finite gradient changes nothing."""
        run = self._student(problem, state, index, generator)
        matched = match(run, self.unroll, tesla_scale=self.tesla_scale)
        loss, rate = float(matched.loss), float(run.lr)
        counts = state["counts"].clone()
        if not _is_finite(matched):
            counts[SKIPPED] += 1
            counts[IN_A_ROW] += 1
            self._check_alive(int(counts[IN_A_ROW]), loss, rate, index)
            return {**state, "counts": counts}, {"lr": rate, "skipped": float(counts[SKIPPED])}
        counts[IN_A_ROW] = 0
        if self.threshold is not None and loss > self.threshold:
            counts[GATED] += 1
            return {**state, "counts": counts}, {"loss": loss, "lr": rate, "gated": float(counts[GATED])}
        moved = problem.canvas.descend(state, matched.images, lr=self.lr_images, momentum=self.momentum)
        new = {**state, **moved, **self._move_lr(state, matched, rate, counts), **self._move_logits(state, matched)}
        if self.ema:
            new["average"] = self.ema * state["average"] + (1 - self.ema) * problem.canvas.render(new)
        metrics = {"loss": loss, "lr": self._rate(new)}
        return {**new, "counts": counts}, metrics | ({"clamped": float(counts[CLAMPED])} if counts[CLAMPED] else {})

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The last images, or their average; the learned step size and soft labels; what was skipped.

        Raises:
            DivergedError: no step changed anything.
        """
        images = state["average"] if self.ema else problem.canvas.render(state)
        counts = state["counts"].tolist()
        if counts[GATED] + counts[SKIPPED] >= self.steps:
            raise DivergedError(
                f"none of {self.steps} steps changed anything: {counts[GATED]} had a loss above threshold "
                f"{self.threshold}, {counts[SKIPPED]} no finite gradient",
                field="threshold",
                hint=f"raise --set threshold, or lower --set syn_lr (now {self.syn_lr:g})",
            )
        return Distilled(
            labels=class_labels(problem),
            images=images.cpu(),
            logits=state["logits"].cpu() if self.soft_labels else None,
            lr=self._rate(state),
            metrics={
                "gated_steps": counts[GATED],
                "skipped_steps": counts[SKIPPED],
                "clamped_steps": counts[CLAMPED],
            },
        )

    def _student(self, problem: Problem, state: State, index: int, generator: Generator) -> Unrolled:
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
            lr=self._rate(state),
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
            index, first=self._first_upper(), last=self.max_start_epoch, interval=self.interval or INTERVAL
        )
        return int(torch.randint(self.min_start_epoch, upper, (1,), generator=generator))

    def _first_upper(self) -> int:
        """T."""
        if self.current_max_start_epoch is not None:
            return self.current_max_start_epoch
        last = self.max_start_epoch
        return max(self.min_start_epoch + 1, last // 2) if self.grows else last

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

    def _rate(self, state: State) -> float:
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
        source, problems = _source(problem), []
        epochs = source.epochs
        first, current, last = self.min_start_epoch, self._first_upper(), self.max_start_epoch
        if not first < current <= last:
            said = f"current_max_start_epoch {current}, " if current != last else ""
            problems.append(
                f"start epochs are min_start_epoch {first}, {said}max_start_epoch {last}, expected them to ascend"
            )
        if first < epochs[0] or last - 1 + self.expert_epochs > epochs[-1]:
            problems.append(
                f"start epochs {first} to {last - 1} and expert_epochs {self.expert_epochs} need epochs {first} to "
                f"{last - 1 + self.expert_epochs}, the experts recorded {epochs[0]} to {epochs[-1]}"
            )
        if self.interval is not None and current == last:
            problems.append(
                f"interval is {self.interval} and the start range ends at {last} from the beginning, expected "
                "current_max_start_epoch below max_start_epoch"
            )
        low, high = self.syn_lr_min or 0.0, self.syn_lr_max or math.inf
        if not low <= self.syn_lr <= high:
            problems.append(f"syn_lr is {self.syn_lr:g}, expected between syn_lr_min {low:g} and syn_lr_max {high:g}")
        if self.mask_shallow and self.mask == "none":
            problems.append(f"mask_shallow is {self.mask_shallow:g} and mask is 'none', expected one of them")
        if not self.mask_shallow and self.mask in {"loss", "deep"}:
            problems.append(f"mask is '{self.mask}' and mask_shallow 0, expected a share to leave out")
        if self.tesla_scale != 1 and self.unroll != "tesla":
            problems.append(f"tesla_scale is {self.tesla_scale:g} and unroll '{self.unroll}', expected unroll=tesla")
        if self.unroll == "tesla" and (self.inner_momentum or self.intermediate != "none"):
            problems.append("unroll is 'tesla' with inner_momentum or intermediate matching, expected adjoint or full")
        if self.microbatch is not None and mixes_samples(net_on_meta(problem)):
            problems.append(
                f"option 'microbatch' is {self.microbatch}, net '{problem.arch}' has batch norm and needs whole batches"
            )
        if self.teacher_label and mixes_samples(net_on_meta(problem)):
            problems.append(
                f"teacher_label asks net '{problem.arch}' with batch norm to label, expected a net whose trajectories "
                "say everything: running statistics are not matched"
            )
        if self.soft_labels and self.teacher_label:
            problems.append("soft_labels and teacher_label are both on, expected one of them")
        if self.intermediate != "none" and self.syn_steps < self.expert_epochs:
            problems.append(f"syn_steps {self.syn_steps} is below expert_epochs {self.expert_epochs}")
        if problems:
            raise UsageError.collect(problems)


def preset(name: str, default: Any) -> Any:
    """The option of `TrajectoryMatching` of that name with another default."""
    base = next(field for field in dataclasses.fields(TrajectoryMatching) if field.name == name)
    return dataclasses.field(default=default, metadata=base.metadata)


def _source(problem: Problem) -> TrajectorySource:
    if problem.trajectories is None:
        raise ValueError("a method that matches trajectories must need them")
    return problem.trajectories


def _is_finite(matched: Matched) -> bool:
    tensors = (matched.loss, matched.images, matched.lr, *([] if matched.logits is None else [matched.logits]))
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
