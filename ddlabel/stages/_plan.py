"""One evaluation, everything resolved and checked before the first student is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from ..bundle import Bundle
from ..config import EvaluateConfig
from ..data._dataset import Dataset
from ..distilled import DistilledSet
from ..events import Event, OnEvent
from ..labels._labels import LabelSet
from ..students import StudentData
from ..training import Recipe, Respond
from ._baselines import (
    TUNE,
    check_plain,
    equal_bytes_ipc,
    is_tuned,
    plain_bundle,
    plain_bytes,
    random_set,
    relabel,
    relabel_features,
    spent_bytes,
)
from ._online import ONLINE, LiveTeacher
from ._recipe import archs_of, automatic_protocol, recipe_and_loss, student_of
from ._stage import Clock
from ._trials import (
    BUNDLE,
    PLAIN_EQUAL,
    RANDOM,
    RANDOM_EQUAL,
    Trial,
    list_trials,
    online_trials,
    optimizer_settings,
    suiting_loss,
)
from ._use import Use

__all__ = ["Plan"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One evaluation, everything resolved."""

    bundle: Bundle
    config: EvaluateConfig
    settings: Mapping[str, Any]
    kind: str
    """Of the class labels that are stored; beside a live teacher the richest there are."""
    labels: LabelSet | None
    use: Use | None
    """Feature or attention labels beside the class labels."""
    losses: tuple[str, ...]
    distilled: DistilledSet
    dataset: Dataset
    teachers: tuple[Bundle, ...]
    plain: tuple[Bundle, ...]
    clock: Clock
    on_event: OnEvent
    live: LiveTeacher | None = None
    """Answers every batch of the rows whose labels are `online`."""

    @cached_property
    def archs(self) -> tuple[str, ...]:
        """Canonical names of the students' nets."""
        return archs_of(self.config, self.dataset.info.height)

    @cached_property
    def protocol(self) -> str:
        """The protocol asked for, or that of the method where it learned a step size with the images."""
        automatic = "continual" if self.config.incremental else automatic_protocol(self.bundle, self.kind)
        return self.config.protocol or automatic

    @property
    def learned(self) -> bool:
        """Whether the labels were learned with the images: no teacher can make them for others."""
        return self.labels is not None and bool(self.labels.parameters.get("learned"))

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """Every row."""
        recipes = optimizer_settings(self.config.optimizer, self.settings)
        config = self.config
        if self.live is not None:
            stored = self.kind, suiting_loss(self.kind, self.labels)
            return tuple(online_trials(self.losses, stored, recipes, baselines=config.baselines))
        return tuple(
            list_trials(
                self.kind,
                self.losses,
                recipes,
                baselines=config.baselines,
                equal_bytes=config.equal_bytes,
                learned=self.learned,
                privileged=self.privileged,
                assigned=self.use is not None and self.use.is_assigned,
            )
        )

    @property
    def privileged(self) -> str | None:
        """Kind of the labels beside the class labels."""
        return None if self.use is None else self.use.kind

    @property
    def label_kinds(self) -> str:
        """As `--labels` writes them."""
        return self.trials[0].label_kinds

    @cached_property
    def equal_ipc(self) -> int:
        """Plain images per class for the bytes of the bundle."""
        return equal_bytes_ipc(self.bundle, self.kind, len(self.distilled.classes), self.privileged)

    @cached_property
    def random_ipc(self) -> int:
        """Random images per class of equal bytes: all there are where a row that nobody asked for wants more."""
        if self.config.equal_bytes:
            return self.equal_ipc
        classes = len(self.distilled.classes)
        return min(self.equal_ipc, int(torch.bincount(self.dataset.train.labels, minlength=classes).min()))

    @cached_property
    def plain_baseline(self) -> Bundle:
        """The plain baseline, given or distilled now."""
        config = self.config
        return self.plain[0] if self.plain else plain_bundle(
            self.bundle,
            config.data,
            self.equal_ipc,
            self.teachers,
            self.on_event,
            device=config.device,
            threads=config.threads,
        )  # fmt: skip

    @cached_property
    def plain_set(self) -> DistilledSet:
        """The images of the plain baseline."""
        return check_plain(self.bundle, self.plain_baseline, self.equal_ipc)

    def recipe_and_loss(self, arch: str, trial: Trial, *, stored_images: int | None = None) -> tuple[Recipe, Any]:
        """The recipe of a net and the loss of a row, as `recipe_and_loss` says, for all images or so many of them."""
        online = trial.labels == ONLINE
        options = self.live.loss_options(trial.loss) if self.live is not None and online else None
        student = student_of(self.bundle, arch, online=online, stored_images=stored_images)
        return recipe_and_loss(self.protocol, student, trial, self.settings, epochs=self.config.epochs, options=options)

    def ready(self) -> Plan:
        """With all that takes time before the first student: a live teacher's test, weights of labels, plain baseline.

        Raises:
            UsageError: labels that do not pull at any weight; a plain baseline that cannot be distilled.
            BundleError: an unfair one; a live teacher at chance.
        """
        plan, use = self, self.use
        if self.live is not None:
            self.live.check(self.distilled.space, self.dataset, self.on_event)
        if use is not None:
            weighed = use.weighed(
                self.distilled,
                self.archs[0],
                self.dataset.info,
                device=self.clock.device,
                seed=self.config.seed,
                on_event=self.on_event,
            )
            plan = dataclasses.replace(self, use=weighed)
        if plan.config.equal_bytes:
            _ = plan.plain_set
            if is_tuned(self.bundle) and not is_tuned(plan.plain_baseline):
                message = f"the bundle's images were tuned beside its labels, those of {PLAIN_EQUAL} were not: {TUNE}"
                self.on_event(Event(phase="baselines", message=message))
        return plan

    def student_data(self, trial: Trial, index: int) -> StudentData:
        """What student `index` of a row trains on; rows of equal bytes see as many samples as the bundle's."""
        if trial.images == BUNDLE:
            beside = self.use.labels if self.use is not None and trial.privileged else None
            return StudentData(self.distilled, None if trial.labels in {"hard", ONLINE} else self.labels, beside)
        if trial.images == PLAIN_EQUAL:
            return StudentData(self.plain_set, None, samples=len(self.distilled.labels))
        if trial.images == RANDOM:
            random = random_set(self.distilled, self.dataset, self.config.seed, index, ipc=None)
            labels, beside = None, None
            if trial.labels not in {"hard", ONLINE} and self.labels is not None:
                labels = relabel(self.bundle, self.labels, random, self.teachers, self.clock)
            if trial.privileged and self.use is not None:
                beside = self.use.of(relabel_features(self.bundle, self.use.stored, random, self.teachers, self.clock))
            return StudentData(random, labels, beside)
        random = random_set(self.distilled, self.dataset, self.config.seed, index, ipc=self.random_ipc)
        return StudentData(random, None, samples=len(self.distilled.labels))

    def respond(self, trial: Trial) -> Respond | None:
        """What answers every batch of a row."""
        return self.live if trial.labels == ONLINE else None

    def online(self, trial: Trial, samples: int) -> dict[str, Any]:
        """`online`, `mix` and `teacher_flops` of a row whose students see so many samples each; else nothing."""
        if self.live is None or trial.labels != ONLINE:
            return {}
        info, seen = self.dataset.info, samples * self.config.seeds
        flops = self.live.flops(seen, channels=info.channels, size=info.height, classes=len(info.classes))
        return {"online": True, "mix": self.live.options.mix, "teacher_flops": flops}

    def tuning(self, trial: Trial) -> dict[str, bool]:
        """`images_tuned` of a plain row beside a bundle whose images were tuned with its labels; else nothing."""
        if trial.images != PLAIN_EQUAL or not is_tuned(self.bundle):
            return {}
        return {"images_tuned": is_tuned(self.plain_baseline)}

    def stored_bytes(self, trial: Trial) -> int:
        """Bytes of the row's images and labels in a bundle like this one, and of a live teacher; none of adapters."""
        if trial.images in {BUNDLE, RANDOM}:
            live = self.live.stored_bytes if self.live is not None and trial.labels == ONLINE else 0
            return spent_bytes(self.bundle, trial.labels, trial.privileged) + live
        ipc = self.random_ipc if trial.images == RANDOM_EQUAL else self.equal_ipc
        return round(plain_bytes(self.bundle, ipc * len(self.distilled.classes)))
