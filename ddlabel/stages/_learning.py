"""Refinements that learn: feature or attention labels of a bundle's images, from real data or experts (DCPI)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .. import _plugins
from ..bundle import Bundle, NewSection
from ..codecs._choose import check_max_kl
from ..codecs._codec import MAX_F16
from ..config import RefineConfig
from ..data._dataset import Dataset, Split
from ..distill._method import State
from ..distill._method import check as check_method
from ..distill._method import run as run_method
from ..distilled import IMAGES, image_section, read_distilled
from ..errors import DivergedError, UsageError
from ..events import Event, OnEvent
from ..labels._privileged import PRIVILEGED, feature_codecs, make_privileged
from ..memory import free_memory
from ..options import build_many
from ..preprocess import describe_space
from ..refine._feature_options import images_per_class
from ..refine._learner import Learned, Lesson
from ._estimate import refuse_beyond
from ._lesson import LR, Work, check_data, make_lesson
from ._partial import Progress, Task, state_section
from ._stage import Clock, computing, load_like
from .distill import learned_labels, quantised

__all__ = ["learn"]

KEEP = "keep"
CODEC = "f16"
"""Of learned labels, unless another is named: half precision costs no accuracy and half the bytes."""


def learn(
    bundle: Bundle,
    config: RefineConfig,
    settings: Mapping[str, Any],
    teachers: Sequence[Bundle],
    on_event: OnEvent,
    progress: Progress,
) -> Bundle:
    """Learn feature or attention labels and store them as section `labels.<kind>`.

    Args:
        bundle: a distilled bundle, class-major with as many images of each class.
        config: matcher, data, net, label kind and codec.
        settings: options of the matcher and the codec.
        teachers: experts for `mtt` and `datm`; for `init=teacher` the nets whose features come first.
        on_event: told of progress.
        progress: where states go, and one to continue from; the result has the same bits either way.

    Returns:
        The bundle with the section added or replaced. Where images were moved too, they are replaced in the type they
        had, and labels of the old ones are stale. Soft labels and step size are replaced where they were learned on.

    Raises:
        UsageError: impossible options, no data, teachers missing or without use.
        BundleError: no distilled bundle, or of unequal classes; data or teachers that are of other images.
        DataError: unusable data.
        DivergedError: a loss, a label or an image became non-finite.
        ResourceError: more memory is needed than is free.
    """
    work = _plan(bundle, config, settings, teachers)
    with computing(config.device, config.threads) as clock:
        distilled = read_distilled(bundle)
        ipc = images_per_class(distilled.labels, len(distilled.classes), bundle.name)
        dataset = load_like(bundle, config.data or "", on_event)
        check_data(work, dataset)
        lesson = make_lesson(work, distilled, ipc, dataset, clock)
        check_method(work.method, lesson)
        _check_codec(work, lesson)
        _check_memory(work.method, lesson, on_event)
        clock, start, reached = _follow(progress, work, lesson, dataset, clock, on_event)
        learned = run_method(work.method, lesson, start=start, on_event=on_event, on_checkpoint=reached)
        if not isinstance(learned, Learned):
            raise TypeError(f"the learner '{work.method.matcher}' must give labels")
        on_event(Event(phase="distilling", message=work.method.summary(learned.metrics)))
        _check_size(work.method, learned)
        result = _stored(work, lesson, learned, clock)
        _tell_stale(work.bundle, result, on_event)
        return result


def _plan(bundle: Bundle, config: RefineConfig, settings: Mapping[str, Any], teachers: Sequence[Bundle]) -> Work:
    """Everything that options alone say is wrong."""
    problems = []
    kind = config.labels or PRIVILEGED[0]
    if kind not in PRIVILEGED:
        problems.append(f"option 'labels' is '{kind}', '{config.method}' learns {' or '.join(PRIVILEGED)}")
    if config.data is None:
        problems.append(f"'{config.method}' learns from real images, expected --data")
    name = CODEC if config.codec == KEEP else config.codec
    if name not in feature_codecs():
        problems.append(f"codec '{name}' is for distributions, expected one of {', '.join(feature_codecs())}")
    if problems:
        raise UsageError.collect(problems)
    check_max_kl(config.codec, config.max_kl)
    learner = _plugins.load("refine", config.method, "REFINEMENT").for_settings({"matcher": config.matcher})
    method, codec = build_many([learner, _plugins.load("codecs", name, "CODEC")], settings)
    _check_teachers(method, teachers)
    return Work(config, bundle, teachers, kind, method, name, codec)


def _check_teachers(method: Any, teachers: Sequence[Bundle]) -> None:
    wants, first = "trajectories" in method.needs, method.init == "teacher"
    if wants and not teachers:
        raise UsageError(
            f"matcher '{method.matcher}' needs trajectories, expected --teacher FILE",
            field="teacher",
            hint="run 'ddlabel train-teacher --experts N' first, or use --matcher dc",
        )
    if first and not teachers:
        raise UsageError("init is 'teacher', expected --teacher FILE", field="teacher")
    if teachers and not wants and not first:
        raise UsageError(
            f"matcher '{method.matcher}' looks at real images and takes no teacher",
            field="teacher",
            hint="drop --teacher, use --matcher mtt, or --set init=teacher to begin with its features",
        )


def _check_codec(work: Work, lesson: Lesson) -> None:
    """The codec can hold labels of this shape; raises UsageError."""
    method = work.method
    work.codec.check(method.k if method.store == "all" else 1, math.prod(method.form(lesson).shape))


def _check_memory(method: Any, lesson: Lesson, on_event: OnEvent) -> None:
    values = {name: getattr(method, name) for name in method.memory_knobs}
    knobs = [f"--set {name} (now {'auto' if value is None else value})" for name, value in values.items()]
    refuse_beyond(
        int(method.memory(lesson)) + lesson.images.nbytes,
        free_memory(lesson.device),
        [*knobs, f"the width of --arch (now {lesson.arch})"],
        lesson.device,
        on_event,
        beside=lesson.pixels.nbytes,
    )


def _follow(
    progress: Progress, work: Work, lesson: Lesson, dataset: Dataset, clock: Clock, on_event: OnEvent
) -> tuple[Clock, tuple[int, State] | None, Callable[[int, State], None]]:
    """The clock and the state to continue with, and what takes the states on the way."""
    task, saved = progress.begin(
        Task(
            clock=clock,
            stage="refine",
            config=work.effective(lesson),
            seed=work.config.seed,
            inputs=[work.bundle, *work.teachers],
            data=dataset.manifest() | {"space": describe_space(lesson.space)},
            splits={"training images": Split(lesson.pixels, lesson.labels)},
            digests={"distilled images": work.bundle.images_digest()},
        ),
        on_event,
    )
    total = work.method.total_steps(lesson)

    def reached(done: int, state: State) -> None:
        warning = work.method.warning(state) if done == 1 else None
        if warning is not None:
            on_event(Event(phase="distilling", message=warning))
        progress.reached(done, total, lambda: [state_section("state.method", state)])

    start = None if saved is None else (saved.done, saved.state("state.method"))
    return task.clock, start, reached


def _check_size(method: Any, learned: Learned) -> None:
    """Refuse labels of a size that no feature has and half precision does not hold; raises DivergedError."""
    largest = float(learned.values.abs().max())
    if largest > MAX_F16:
        rate = "auto" if method.lr_feat is None else f"{method.lr_feat:g}"
        raise DivergedError(
            f"labels reached {largest:g}, expected at most {MAX_F16:g}",
            field="lr_feat",
            hint=f"lower --set lr_feat (now {rate})",
        )


def _tell_stale(before: Bundle, after: Bundle, on_event: OnEvent) -> None:
    """Say which labels are of images that are no longer there."""
    fresh = {section.name for section in before.sections("labels") if not section.stale}
    stale = [section.name for section in after.sections("labels") if section.stale and section.name in fresh]
    if stale:
        message = f"note: the images moved, {', '.join(stale)} is stale; run 'ddlabel augment-labels' again"
        on_event(Event(phase="learning", message=message))


def _stored(work: Work, lesson: Lesson, learned: Learned, clock: Clock) -> Bundle:
    """The bundle with what was learned."""
    added: list[NewSection] = []
    metrics = dict(learned.metrics)
    if learned.images is not None:
        images = learned.images
        if work.bundle.tensor(IMAGES).dtype == torch.uint8:
            images, cost = quantised(images, lesson.space)
            metrics |= cost
        added.append(image_section(images, lesson.space))
    if learned.lr is not None:
        added.append(NewSection(LR, "student", {LR: torch.tensor(learned.lr, dtype=torch.float32)}))
    record = clock.record(
        "refine",
        work.effective(lesson),
        seed=work.config.seed,
        inputs=[work.bundle, *work.teachers],
        metrics=metrics,
    )
    moved = work.bundle.with_stage(record, add=added)  # labels are of the images that will be stored
    if learned.logits is not None:
        added.append(learned_labels(moved, learned.logits, work.teachers))
    section = make_privileged(
        moved,
        work.kind,
        learned.form,
        learned.values,
        codec_name=work.codec_name,
        codec=work.codec,
        teachers=[teacher.content for teacher in work.teachers],
        parameters=learned.parameters,
        norm=learned.norm,
    )
    return work.bundle.with_stage(record, add=[*added, section])
