"""Stage `evaluate`: fresh students trained on the bundle, scored on test data, beside honest baselines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import _plugins, seeding
from ..augment._augment import build as build_augmentation
from ..bundle import Bundle
from ..config import EvaluateConfig, as_dict, build_many, check
from ..data._dataset import Dataset, load
from ..distilled import DistilledSet, read_distilled
from ..errors import BundleError, UsageError
from ..events import Event, OnEvent, ignore
from ..labels._labels import LabelSet, choose_kind, load_kind, read_labels, through_codec
from ..nets._net import build, canonical, default_arch
from ..preprocess import data_of
from ..protocols._protocol import Student
from ..scores import paired_difference, summarise
from ..selection import select_random
from ..students import StudentData, make_sampler
from ..training import Recipe, TrainState, accuracy, train
from ._stage import Clock, computing, redact
from .augment_labels import label_views, teacher_nets

__all__ = ["run"]

SUITS = {"hard": "ce", "soft": "softce", "dense": "ladd"}
"""The loss taken for a label kind when none is asked for; refined labels take `gift`."""


def run(
    bundle: Bundle,
    config: EvaluateConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    teachers: Sequence[Bundle] = (),
    on_event: OnEvent = ignore,
) -> Bundle:
    """Score a distilled bundle: nets x seeds, mean, sample standard deviation, 95 % interval, last epoch.

    Args:
        bundle: a distilled bundle.
        config: data set, nets, label kind, loss, protocol and seeds.
        settings: overrides of the protocol's recipe and options of the loss (`--set`).
        teachers: the teachers of the labels; needed by `baselines`, which labels random images the same way.
        on_event: told of progress.

    Returns:
        The bundle with one entry more in `evaluations`.

    Raises:
        UsageError: unknown names or options; baselines without the teachers of the labels.
        BundleError: missing or stale labels; data of other classes or image shape.
        DivergedError: a loss became non-finite.
    """
    check(config)
    with computing(config.device, config.threads) as clock:
        kind = config.labels or choose_kind(bundle)
        labels = None if kind == "hard" else read_labels(bundle, kind)
        loss_name = config.loss or _suiting_loss(kind, labels)
        plan = _Plan(
            bundle=bundle,
            config=config,
            settings=dict(settings or {}),
            kind=kind,
            labels=labels,
            loss_name=loss_name,
            distilled=read_distilled(bundle),
            dataset=_test_data(bundle, config, on_event),
            teachers=tuple(teachers),
            clock=clock,
            on_event=on_event,
        )
        plan.check_before_work()
        evaluation = _evaluate(plan)
        record = clock.record(
            "evaluate",
            as_dict(config) | {"data": redact(config.data), "labels": kind, "loss": loss_name},
            seed=config.seed,
            inputs=[bundle, *teachers],
        )
        return bundle.with_evaluation(record, evaluation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """One evaluation, everything resolved."""

    bundle: Bundle
    config: EvaluateConfig
    settings: Mapping[str, Any]
    kind: str
    labels: LabelSet | None
    loss_name: str
    distilled: DistilledSet
    dataset: Dataset
    teachers: tuple[Bundle, ...]
    clock: Clock
    on_event: OnEvent

    def archs(self) -> tuple[str, ...]:
        """Canonical names of the students' nets."""
        size = self.dataset.info.height
        return tuple(canonical(name) for name in self.config.arch or (default_arch(size),))

    def recipe_and_loss(self, arch: str, loss_name: str) -> tuple[Recipe, Any]:
        """The protocol's recipe for a net with the user's overrides, and the loss with its options."""
        protocol = _plugins.load("protocols", self.config.protocol, "PROTOCOL")
        student = Student(arch=arch, stored_images=len(self.distilled.labels), learned_lr=_learned_lr(self.bundle))
        published = as_dict(protocol.recipe(student))
        named = {"optimizer": self.config.optimizer, "epochs": self.config.epochs}
        chosen = {name: value for name, value in named.items() if value is not None}
        loss_class = _plugins.load("losses", loss_name, "LOSS")
        own = {option.name for option in dataclasses.fields(loss_class)}
        recipe_names = {option.name for option in dataclasses.fields(Recipe)}
        given = {
            name: value
            for name, value in self.settings.items()
            if loss_name == self.loss_name or name in own | recipe_names
        }
        recipe, loss = build_many([Recipe, loss_class], {**published, **chosen, **given})
        return recipe, loss

    def check_before_work(self) -> None:
        """Refuse what cannot work before the first student is trained."""
        for arch in self.archs():
            self.recipe_and_loss(arch, self.loss_name)
        loss = _plugins.load("losses", self.loss_name, "LOSS")
        if "soft" in loss.needs and self.labels is None:
            raise UsageError(
                f"loss '{self.loss_name}' needs soft labels, --labels is 'hard'",
                field="loss",
                hint="use --loss ce or other --labels",
            )
        if self.config.baselines and self.labels is not None:
            self._check_teachers()

    def _check_teachers(self) -> None:
        wanted = list(self.labels.section.teacher or ()) if self.labels else []
        have = [teacher.content for teacher in self.teachers]
        if sorted(wanted) != sorted(have):
            raise UsageError(
                f"--baselines labels random images like '{self.kind}', expected the {len(wanted)} teacher(s) that made "
                f"them ({', '.join(digest[:12] for digest in wanted)}), got {len(have)} "
                f"({', '.join(digest[:12] for digest in have) or 'none'})",
                field="teacher",
                hint="pass them with --teacher FILE",
            )


def _evaluate(plan: _Plan) -> dict[str, Any]:
    """Train and score every row; the manifest's evaluation record."""
    rows = [_Row("bundle", plan.kind, plan.loss_name)]
    if plan.config.baselines:
        rows.append(_Row("random", "hard", SUITS["hard"]))
        if plan.kind != "hard":
            rows.append(_Row("random", plan.kind, plan.loss_name))
    results = []
    for arch in plan.archs():
        ours = None
        for row in rows:
            result = _score_row(plan, row, arch)
            ours = result["accuracy"]["values"] if ours is None else ours
            if row.images == "random":
                result["bundle_minus_this"] = paired_difference(ours, result["accuracy"]["values"])
            results.append(result)
    info = plan.dataset.info
    return {
        "protocol": plan.config.protocol,
        "results": results,
        "labels": plan.kind,
        "domain": plan.labels.domain if plan.labels else None,
        "refined": plan.labels.refined if plan.labels else None,
        "codec": dict(plan.labels.section.codec or {}) if plan.labels else None,
        "seeds": list(range(plan.config.seeds)),
        "seed": plan.config.seed,
        "statistic": "test accuracy of the last epoch",
        "test": {"name": info.name, "images": len(plan.dataset.test)},
        "same_source": plan.dataset.fingerprint == data_of(plan.bundle)["fingerprint"],
        "images": plan.bundle.images_digest(),
        "assumption_compliant": True,
    }


@dataclasses.dataclass(frozen=True)
class _Row:
    """What students train on: the bundle's images or random ones, with which labels and loss."""

    images: str
    labels: str
    loss: str


def _score_row(plan: _Plan, row: _Row, arch: str) -> dict[str, Any]:
    recipe, loss = plan.recipe_and_loss(arch, row.loss)
    last, best = [], []
    samples = 0
    for seed in range(plan.config.seeds):
        data = _student_data(plan, row, seed)
        name = f"{row.images} images, {row.labels} labels, {arch}, seed {seed}"
        scores, samples = _train_student(plan, data, recipe, loss, arch, seed, name)
        last.append(scores[-1])
        best.append(max(scores))
        plan.on_event(Event(phase=name, message=f"{name}: {scores[-1]:.2%}"))
    return {
        "arch": arch,
        "images": row.images,
        "labels": row.labels,
        "loss": {"name": row.loss, "options": as_dict(loss)},
        "recipe": as_dict(recipe),
        "accuracy": summarise(last),
        "best_on_test": summarise(best),
        "samples_seen": samples,
    }


def _train_student(
    plan: _Plan, data: StudentData, recipe: Recipe, loss: Any, arch: str, seed: int, name: str
) -> tuple[list[float], int]:
    """Train one student; its test accuracies at the protocol's looks (the last one last), and samples seen."""
    info, device = plan.dataset.info, plan.clock.device
    path = ("student", arch, seed)
    net = build(
        arch,
        channels=info.channels,
        size=info.height,
        classes=len(info.classes),
        generator=seeding.generator(plan.config.seed, *path, "init"),
    ).to(device)
    looks = _looks(recipe.epochs, _plugins.load("protocols", plan.config.protocol, "PROTOCOL").test_evaluations)
    scores: list[float] = []
    test = plan.dataset.test

    def look(state: TrainState) -> None:
        if state.epoch in looks:
            scores.append(accuracy(net, test.pixels, test.labels, space=plan.distilled.space))

    estimator = getattr(loss, "estimator", "views")
    student_seed = seeding.stream_seed(plan.config.seed, *path)
    train(
        net,
        make_sampler(data, batch=recipe.batch, estimator=estimator, seed=student_seed),
        recipe,
        loss,
        build_augmentation(recipe.augment, flip=info.flip),
        seed=plan.config.seed,
        seed_path=path,
        on_event=lambda event: plan.on_event(dataclasses.replace(event, phase=name)),
        on_epoch=look,
    )
    final = accuracy(net, test.pixels, test.labels, space=plan.distilled.space)
    per_epoch = len(data.distilled.labels) * (1 + _views(data) if estimator == "full" else 1)
    return [*scores, final], per_epoch * recipe.rounds


def _looks(epochs: int, count: int) -> frozenset[int]:
    """Epochs before the last at which the published statistic also looks at test data."""
    return frozenset(epochs * index // count for index in range(1, count))


def _views(data: StudentData) -> int:
    return 0 if data.labels is None else int(data.labels.values.shape[1])


def _student_data(plan: _Plan, row: _Row, seed: int) -> StudentData:
    if row.images == "bundle":
        return StudentData(plan.distilled, plan.labels)
    counts = torch.bincount(plan.distilled.labels, minlength=len(plan.distilled.classes))
    train_split = plan.dataset.train
    generator = seeding.generator(plan.config.seed, "baseline", seed)
    indices = select_random(train_split.labels, counts, generator)
    images = plan.distilled.space.encode(train_split.pixels[indices])
    random = dataclasses.replace(plan.distilled, images=images, labels=train_split.labels[indices])
    return StudentData(random, None if row.labels == "hard" else _relabel(plan, random))


def _relabel(plan: _Plan, random: DistilledSet) -> LabelSet:
    """Label random images exactly as the bundle's were: same teachers, checkpoints, views, refinement, codec."""
    if plan.labels is None:
        raise ValueError("nothing to label like")
    origin = _last_stage(plan.bundle, "augment-labels", plan.kind)
    nets = teacher_nets(plan.teachers, str(origin["checkpoint"]), plan.clock)
    values = label_views(random, load_kind(plan.labels), nets, plan.clock)
    fresh = dataclasses.replace(plan.labels, values=values, domain="logit", refined=None)
    if plan.labels.refined is not None:
        options = dict(plan.labels.refined)
        refinement = _plugins.load("refine", str(options.pop("method")), "REFINEMENT")
        known = {field.name for field in dataclasses.fields(refinement)}
        (chosen,) = build_many([refinement], {name: value for name, value in options.items() if name in known})
        fresh = chosen.apply(fresh, random.labels)
    return through_codec(fresh)


def _last_stage(bundle: Bundle, stage: str, kind: str) -> Mapping[str, Any]:
    for entry in reversed(bundle.manifest.history):
        if entry["stage"] == stage and entry["config"].get("kind") == kind:
            return dict(entry["config"])
    raise BundleError(
        f"{bundle.name}: its history does not say how '{kind}' labels were made, so random images cannot be labelled "
        "the same way",
        field="history",
        hint="drop --baselines",
    )


def _learned_lr(bundle: Bundle) -> float | None:
    if not bundle.has("student.lr"):
        return None
    lr = float(bundle.tensor("student.lr"))
    if not 0 < lr < math.inf:
        raise BundleError(
            f"{bundle.name}: learned step size 'student.lr' is {lr}, expected a positive number",
            field="student.lr",
            hint="distil again with a smaller step for it, or evaluate with --protocol dm",
        )
    return lr


def _suiting_loss(kind: str, labels: LabelSet | None) -> str:
    return "gift" if labels is not None and labels.refined is not None else SUITS[kind]


def _test_data(bundle: Bundle, config: EvaluateConfig, on_event: OnEvent) -> Dataset:
    """The data set at the bundle's image size, its classes checked against the bundle's."""
    data = data_of(bundle)
    dataset = load(config.data, size=data["height"], validation=data["validation"]["fraction"], on_event=on_event)
    info = dataset.info
    sides = {
        "classes": (list(data["classes"]), list(info.classes)),
        "image shape": ([data["channels"], data["height"], data["width"]], [info.channels, info.height, info.width]),
    }
    for field, (ours, theirs) in sides.items():
        if ours != theirs:
            raise BundleError(
                f"{bundle.name} has {field} {ours}, the data set '{info.name}' has {theirs}",
                field=field,
                hint="evaluate on the data set it was distilled from",
            )
    return dataset
