"""Learning feature and attention labels by trajectory matching: the labels act in every step of an unrolled student.

DCPI: Dataset Condensation using Privileged Information; earlier DRUPI. With B_i the batch of step i and F the labels,

    theta_{i+1} = theta_i - beta grad [CE(f(theta_i; x_i), y_i) + lambda_reg MSE(psi(theta_i; x_i), F[B_i])]

and labels move against the gradient of the base method's loss through all steps, plus lambda_task times the mean over
steps of CE(head_{theta_i}(F[B_i]), y_i), for which each theta_i is a constant, plus the contrastive terms of labels
among themselves.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..distill._initial import initial_logits
from ..distill._memory import first_order_bytes, net_bytes
from ..distill._method import Distilled, State
from ..distill._real import class_labels, net_on_meta
from ..distill._student import Privileged, Student, compares_batches
from ..distill._trajectory import TrajectoryMatching
from ..distill._trajectory_options import TrajectoryOptions
from ..distill._unroll import Matched, Unrolled, match
from ..distill.datm import DifficultyAlignedTrajectories
from ..distill.mtt import MatchingTrajectories
from ..errors import UsageError
from ..nets._net import mixes_samples
from ..options import opt
from ..privileged._objective import infonce, supcon
from ._feature_options import same_as
from ._initial import ONE_EPOCH
from ._learner import FeatureLearning, Learned, Lesson

__all__ = ["DatmLearning", "MttLearning", "Task", "TrajectoryLearning"]

LEAST = 1e-30
"""Least probability of a class in a mixture of labels, whose logarithm is then finite."""


@dataclass(frozen=True)
class Task:
    """How well labels are read."""

    loss: float
    """Mean cross-entropy."""
    accuracy: float
    """Share of labels that are read as the class of their image."""
    gradient: Tensor
    """(n, *shape), of the loss."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryLearning(FeatureLearning, TrajectoryOptions):
    """The options of labels and of a method that matches trajectories; `init` is that of labels.

    Images, their soft labels and the student's step size come from the bundle; they stay as they are unless
    `tune_images`, which moves them exactly as the method would, by the gradients of the same backward pass.

    Differs from the authors' code in: features are those of the unrolled parameters (theirs come from a fixed random
    net, so that the labels have no effect on the student); labels are read by the student's own head, not a random one;
    the task term is a mean over steps, not a sum; images move once per step, not by a doubled gradient; where images
    stay, so do the student's step size and soft labels (theirs move all); nothing is pooled unless asked for; Adam by
    default, because published steps are far too small for the true gradient.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"trajectories"})
    memory_knobs: ClassVar[tuple[str, ...]] = TrajectoryMatching.memory_knobs
    base: ClassVar[type[TrajectoryMatching]]
    """The method that is followed."""
    syn_lr: float | None = opt(  # type: ignore[assignment]
        None, "the student's step size at the start; auto is the bundle's own, else the method's default", above=0
    )

    def rate(self, lesson: Lesson) -> float:
        """The student's step size at the start."""
        if self.syn_lr is not None:
            return self.syn_lr
        return self.base.syn_lr if lesson.lr is None else lesson.lr

    def method(self, lesson: Lesson) -> TrajectoryMatching:
        """The method with these options."""
        names = [field.name for field in dataclasses.fields(self.base) if field.name not in {"init", "syn_lr"}]
        return self.base(syn_lr=self.rate(lesson), **{name: getattr(self, name) for name in names})

    def total_steps(self, lesson: Lesson) -> int:
        """The option `steps`."""
        del lesson
        return self.steps

    def memory(self, lesson: Lesson) -> int:
        """Peak bytes of a step, with a whole batch per graph where labels see each other, or of what comes before it.

        Before it the first nets are trained, and new ones weigh the labels.
        """
        method = self.method(lesson).memory(lesson, mixes=compares_batches(self.terms))
        count = len(lesson.labels) if self.init == "one-epoch" else len(lesson.images) * (self.lambda_reg > 0)
        first = min(count, ONE_EPOCH.batch) * first_order_bytes(lesson) + net_bytes(lesson, 2)
        return max(method, first) + self.label_bytes(lesson)

    def check(self, lesson: Lesson) -> None:
        """What the options ask of the experts, the labels and each other.

        Raises:
            UsageError: all problems in one error, but experts of another net first.
        """
        source = lesson.trajectories
        if source is None:
            raise ValueError("a method that matches trajectories must need them")
        if source.arch != lesson.arch:
            raise UsageError(
                f"{source.name(0)} is of net '{source.arch}', the labels are features of '{lesson.arch}': students "
                "start from experts, so expected one net",
                field="arch",
                hint=f"use --arch {source.arch}, or train experts of '{lesson.arch}'",
            )
        self.check_labels(lesson, mirrors=self.augment == "dsa" and lesson.flip)
        problems = self.method(lesson).contradictions(
            source.epochs, lesson.arch, mixes=mixes_samples(net_on_meta(lesson))
        )
        if self.microbatch is not None and compares_batches(self.terms):
            problems.append(
                f"option 'microbatch' is {self.microbatch}, but mmd, infonce and supcon compare whole batches"
            )
        if self.task_head == "init":
            problems.append(
                f"task_head is 'init', but {self.matcher} reads labels by the net of every step: expected auto"
            )
        if self.soft and (self.soft_labels or self.teacher_label):
            problems.append(
                f"soft is {self.soft:g}, but {self.matcher} trains students on soft labels already, expected 0"
            )
        if problems:
            raise UsageError.collect(problems)

    def notes(self, lesson: Lesson) -> tuple[str, ...]:
        """What students train on, and how fast."""
        given = lesson.lr is not None and self.syn_lr is None
        notes = list(self.label_notes(lesson))
        if self.init == "teacher" and lesson.trajectories is not None and len(lesson.trajectories) > self.k:
            notes.append(f"first labels: by the first {self.k} of {len(lesson.trajectories)} experts")
        notes.append(f"students train with step size {self.rate(lesson):g}" + ", the bundle's own" * given)
        if self.soft_labels and lesson.logits is None:
            notes.append(
                "the bundle has no learned soft labels: students here train on those of the experts, as DATM "
                "starts; they are not stored: augment-labels --kind soft gives later students the like"
            )
        elif self.soft_labels:
            notes.append("students train on the bundle's learned soft labels")
        return tuple(notes)

    def prepare(self, lesson: Lesson, generator: Generator) -> State:
        """First labels, and what the method moves: of images and soft labels only what is not fixed."""
        state = self.begin_labels(lesson, generator)
        images = lesson.images.to(lesson.device)
        begun = self.method(lesson).begin(lesson, images, self.rate(lesson), generator)
        if not self.tune_images:
            begun = {name: begun[name] for name in ("lr", "lr_velocity", "counts")}
        if self.soft_labels:
            logits = initial_logits(lesson, images, every=True) if lesson.logits is None else lesson.logits
            begun["logits"] = logits.float().to(lesson.device)
            begun |= {"logits_velocity": torch.zeros_like(begun["logits"])} if self.tune_images else {}
        return state | begun

    def step(self, lesson: Lesson, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Train one student with the labels and move them; a step that the method would skip changes nothing."""
        method = self.method(lesson)
        known = state if self.tune_images else {**state, "images": lesson.images.to(lesson.device)}
        run = self._with_soft(lesson, method.student(lesson, known, index, generator))
        labels, chosen = self._labels(state["features"], generator)
        run = dataclasses.replace(run, privileged=self._privileged(lesson, state, labels))
        matched = match(run, self.unroll, tesla_scale=self.tesla_scale)
        counts, stays = method.judge(state, run, matched, index)
        if stays is not None:
            return {**state, "counts": counts}, stays
        if matched.privileged is None:
            raise ValueError("a run with privileged labels has their gradient")
        gradient, metrics = matched.privileged, {"loss": float(matched.loss)}
        if self.task_weight(lesson):
            found = self.task(lesson, run, matched)
            gradient = gradient + self.task_weight(lesson) * found.gradient
            metrics |= {"task": found.loss, "accuracy": found.accuracy}
        if self.infonce or self.supcon:
            gradient = gradient + self._apart(lesson, labels)
        moved = self.move_labels(state, _spread(gradient, chosen, self.k))
        if self.tune_images:
            state, more = method.move(lesson, state, run, matched, counts)
            metrics |= more
        new = {**state, "counts": counts, **moved}
        return new, {**metrics, "movement": self.movement(new)}

    def task(self, lesson: Lesson, run: Unrolled, matched: Matched) -> Task:
        """How well a student's own heads read the classes of whole features: (1/N) sum of CE(head_i(F[B_i]), y_i).

        Args:
            lesson: for the shape of what the tapped block gives.
            run: with privileged labels (n, *shape), whole features.
            matched: of the run.
        """
        if run.privileged is None:
            raise ValueError("only a run with privileged labels has a task")
        student, labels, hard = Student(run.net, by_hand=False), run.privileged.labels, run.labels
        total, right, gradient = 0.0, 0.0, torch.zeros_like(labels)
        for theta, batch in zip(matched.path, run.batches, strict=False):
            rows = batch.to(labels.device)
            leaf = labels[rows].detach().requires_grad_(True)
            logits = student.read(theta, self.as_maps(lesson, leaf), run.privileged.form.layer)
            loss = functional.cross_entropy(logits, hard[rows])
            gradient.index_add_(0, rows, torch.autograd.grad(loss, leaf)[0] / len(run.batches))
            total += float(loss.detach())
            right += float((logits.argmax(1) == hard[rows]).float().mean())
        return Task(total / len(run.batches), right / len(run.batches), gradient)

    def _apart(self, lesson: Lesson, labels: Tensor) -> Tensor:
        """The gradient (n, *shape) of the contrastive terms of labels among themselves."""
        leaf = labels.detach().requires_grad_(True)
        value = self.infonce * infonce(leaf, leaf) + self.supcon * supcon(leaf, leaf, lesson.hard)
        return torch.autograd.grad(value, leaf)[0]

    def finish(self, lesson: Lesson, state: State) -> Learned:
        """The labels; images, step size and soft labels too where they were moved; what was skipped.

        Raises:
            DivergedError: no step changed anything.
        """
        method = self.method(lesson)
        if self.tune_images:
            base = method.finish(lesson, state)
        else:
            base = Distilled(labels=class_labels(lesson), metrics=method.check_moved(state))
        return self.learned(lesson, state, base, {})

    def _privileged(self, lesson: Lesson, state: State, labels: Tensor) -> Privileged:
        return Privileged(
            labels=labels,
            hard=lesson.hard,
            form=self.form(lesson),
            objective=self.objective(state),
            norm=self.norm_of(state),
            mirror=self.label_aug == "hflip",
        )

    def _labels(self, features: Tensor, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Labels (n, *shape) out of K: their mean, or one of each image and which (n,)."""
        if self.k_train == "mean" or self.k == 1:
            return features.mean(0), None
        count = features.shape[1]
        chosen = torch.randint(self.k, (count,), generator=generator).to(features.device)
        return features[chosen, torch.arange(count, device=features.device)], chosen

    def _with_soft(self, lesson: Lesson, run: Unrolled) -> Unrolled:
        """CE(y) + soft KL(p || student) as the cross-entropy of the mixture (y + soft p) / (1 + soft), 1 + soft times.

        The two differ by the entropy of p, a constant of student and images.
        """
        if not self.soft or lesson.soft is None:
            return run
        soft = lesson.soft.to(run.images)
        mixed = (functional.one_hot(run.labels, soft.shape[1]) + self.soft * soft.exp()) / (1 + self.soft)
        return dataclasses.replace(
            run, logits=mixed.clamp_min(LEAST).log(), loss_scale=run.loss_scale * (1 + self.soft)
        )


def _spread(gradient: Tensor, chosen: Tensor | None, k: int) -> Tensor:
    """The gradient (K, n, *shape) of K labels, from that of their mean, or of those chosen (n,)."""
    if chosen is None:
        return (gradient / k).expand(k, *gradient.shape)
    spread = gradient.new_zeros(k, *gradient.shape)
    spread[chosen, torch.arange(len(gradient), device=gradient.device)] = gradient
    return spread


@dataclass(frozen=True, kw_only=True)
class MttLearning(TrajectoryLearning):
    """By MTT (Cazenavette et al., CVPR 2022, arXiv:2203.11932)."""

    matcher: ClassVar[str] = "mtt"
    base: ClassVar[type[TrajectoryMatching]] = MatchingTrajectories


@dataclass(frozen=True, kw_only=True)
class DatmLearning(TrajectoryLearning):
    """By DATM (Guo et al., ICLR 2024, arXiv:2310.05773): soft cross-entropy, its gate and its start range."""

    matcher: ClassVar[str] = "datm"
    base: ClassVar[type[TrajectoryMatching]] = DifficultyAlignedTrajectories
    grows: ClassVar[bool] = DifficultyAlignedTrajectories.grows
    steps: int = same_as(DifficultyAlignedTrajectories, "steps")
    syn_steps: int = same_as(DifficultyAlignedTrajectories, "syn_steps")
    batch_syn: int | None = same_as(DifficultyAlignedTrajectories, "batch_syn")
    threshold: float | None = same_as(DifficultyAlignedTrajectories, "threshold")
    soft_labels: bool = same_as(DifficultyAlignedTrajectories, "soft_labels")
