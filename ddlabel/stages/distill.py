"""Stage `distill`: a few images per class, selected from real ones or optimised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection
from ..config import DistillConfig
from ..curriculum import parse_filter
from ..data._dataset import Dataset, Split, load
from ..distill._method import Distilled, Problem, State
from ..distill._method import check as check_method
from ..distill._method import run as run_method
from ..distill._team import group, steps
from ..distilled import hard_section, image_section
from ..errors import BundleError, UsageError
from ..events import OnEvent, ignore
from ..labels._labels import make_section
from ..nets._net import canonical, default_arch
from ..options import as_dict, build_many, check
from ..preprocess import data_of, describe_space, space_sections
from ..space import Space
from ..teachers import Teacher
from ..team import ALONE, Team
from ..trajectories import Trajectories
from ._distill_teachers import backbones_of, check_teacher_fits, check_teachers, experts_of
from ._estimate import check_memory
from ._partial import Progress, Task, state_section
from ._score_files import filter_training, recorded_scores
from ._self_test import check_backbones
from ._stage import Clock, computing, fit_space, redact

__all__ = ["learned_labels", "quantised", "run"]


def run(
    config: DistillConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    teachers: Sequence[Bundle] = (),
    on_event: OnEvent = ignore,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Bundle:
    """Make a distilled bundle from real data.

    Args:
        config: data set, method and images per class.
        settings: the method's own options (`--set`), as texts or typed values.
        teachers: teacher bundles, for methods that need features or trajectories.
        on_event: told of progress.
        progress: where states go, and one to continue from; the result has the same bits either way.
        team: processes that share the classes, or the batches of images.

    Returns:
        A bundle of kind `distilled` with sections `images`, `labels.hard`, what the input space needs,
        `scores.selection` (indices of the chosen training images, and weights where the method gives them) when the
        method selects, `scores.mosaic` (the crops its images are made of) when it stitches them, `student.lr` and
        `labels.soft` (logits) when it learns them.

    Raises:
        UsageError: unknown method or options, a teacher or its scores missing, too many, a state of other options.
        BundleError: a teacher of other classes, image shape or space, a damaged state or one of other data.
        DataError: unusable data, or a class with fewer than `ipc` images.
        DivergedError: a loss or an image became non-finite.
        ResourceError: more memory is needed than is free, naming the options to lower.
    """
    check(config)
    method = read_method(config, settings or {})
    check_teachers(config.method, method.needs, teachers, filtered=config.filter is not None)
    if config.checkpoint is not None and "backbones" not in method.needs:
        raise UsageError(
            f"--checkpoint is for methods that look through trained nets, --method is '{config.method}'",
            field="checkpoint",
            hint="drop it",
        )
    if config.checkpoint == "":
        raise UsageError("option 'checkpoint' is empty, expected last or a kept epoch", field="checkpoint")
    if config.arch is not None and "backbones" in method.needs:
        raise UsageError(
            f"--method {config.method} looks through the nets of its teachers, --arch names another",
            field="arch",
            hint="drop --arch",
        )
    if config.filter is not None:
        parse_filter(config.filter)
    with computing(config.device, config.threads, team) as clock:
        dataset = load(config.data, size=config.size, validation=config.validation, on_event=on_event)
        experts = experts_of(config, teachers) if "trajectories" in method.needs else []
        trajectories = Trajectories(experts) if experts else None
        teacher = Teacher((experts or teachers)[0]) if teachers else None
        if teacher:
            check_teacher_fits(teacher, dataset, config, trajectories=trajectories is not None)
        space = teacher.space if teacher else fit_space(dataset, config.space or "normalised", on_event)
        pool, kept = dataset, None
        if config.filter is not None:
            pool, kept = filter_training(config.filter, teachers, dataset, config.ipc)
        scores = recorded_scores(getattr(method, "reads", ()), teachers, dataset, kept)
        problem = dataclasses.replace(_problem(config, pool, space, teacher, trajectories, scores, clock), team=team)
        if "backbones" in method.needs:
            chosen, nets = backbones_of(config, teachers, clock)
            check_backbones(chosen, nets, dataset, space, config.self_test, on_event)
            problem = dataclasses.replace(problem, backbones=nets, arch=chosen[0].arch, filtered=kept is not None)
        check_method(method, problem)
        check_memory(method, problem, on_event)
        progress = progress or Progress()
        clock, start, reached = _follow(progress, config, method, problem, dataset, clock, teachers, on_event)
        distilled = run_method(
            method, problem, start=start, on_event=on_event, on_checkpoint=reached, on_wait=progress.rest
        )
        if kept is not None and distilled.indices is not None:
            distilled = dataclasses.replace(distilled, indices=kept[distilled.indices])
        if kept is not None and distilled.patches is not None:
            sources = kept[distilled.patches[..., :1]]
            distilled = dataclasses.replace(distilled, patches=torch.cat([sources, distilled.patches[..., 1:]], dim=-1))
        return _bundle(config, method, problem, distilled, dataset, clock, teachers)


def read_method(config: DistillConfig, settings: Mapping[str, Any]) -> Any:
    """The method with its options.

    Raises:
        UsageError: unknown method or options, values out of bounds.
    """
    (method,) = build_many([_method_class(config, settings)], _settings(config, settings))
    return method


def _method_class(config: DistillConfig, settings: Mapping[str, Any]) -> type[Any]:
    """The method's options; a method around another one has those of both (`glad`)."""
    method: type[Any] = _plugins.load("distill", config.method, "METHOD")
    return method.for_settings(settings) if hasattr(method, "for_settings") else method


def _follow(
    progress: Progress,
    config: DistillConfig,
    method: Any,
    problem: Problem,
    dataset: Dataset,
    clock: Clock,
    teachers: Sequence[Bundle],
    on_event: OnEvent,
) -> tuple[Clock, tuple[int, State] | None, Callable[[int, State], None]]:
    """The clock and the state to continue with, and what takes the states on the way."""
    task, saved = progress.begin(
        Task(
            clock=clock,
            stage="distill",
            config=_effective(config, method, problem),
            seed=config.seed,
            inputs=teachers,
            data=dataset.manifest() | {"space": describe_space(problem.space)},
            splits={"training images": Split(problem.pixels, problem.labels)},
            alike=not group(method, problem),
        ),
        on_event,
    )
    total = len(steps(method, problem))

    def reached(done: int, state: State) -> None:
        progress.reached(done, total, lambda: [state_section("state.method", state)])

    start = None if saved is None else (saved.done, saved.state("state.method"))
    return task.clock, start, reached


def _effective(config: DistillConfig, method: Any, problem: Problem) -> dict[str, Any]:
    """The options that were followed, without paths, and what a method adds to them."""
    more = method.record(problem) if hasattr(method, "record") else {}
    own = {"data": redact(config.data), "arch": problem.arch, "options": as_dict(method)}
    return as_dict(config) | own | more


def _settings(config: DistillConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options with those that have a place of their own on the command line."""
    known = {field.name for field in dataclasses.fields(_method_class(config, settings))}
    merged = dict(settings)
    for name, value in (("unroll", config.unroll), ("mask_shallow", config.mask_shallow)):
        if value is None:
            continue
        if name not in known:
            raise UsageError(f"method '{config.method}' has no option '{name}'", field=name, hint="drop it")
        if name in settings:
            raise UsageError(f"option '{name}' is given twice, expected it once", field=name)
        merged[name] = value
    return merged


def _problem(
    config: DistillConfig,
    dataset: Dataset,
    space: Space,
    teacher: Teacher | None,
    trajectories: Trajectories | None,
    scores: Mapping[str, Tensor],
    clock: Clock,
) -> Problem:
    info = dataset.info
    arch = canonical(config.arch or (trajectories.arch if trajectories else default_arch(info.height)))
    if trajectories and arch != trajectories.arch:
        raise BundleError(
            f"{trajectories.name(0)} is of net '{trajectories.arch}', --arch is '{arch}'",
            field="arch",
            hint="drop --arch, or train experts of that net",
        )
    return Problem(
        pixels=dataset.train.pixels,
        labels=dataset.train.labels,
        classes=info.classes,
        space=space,
        ipc=config.ipc,
        arch=arch,
        flip=info.flip,
        teacher=teacher,
        device=clock.device,
        seed=config.seed,
        trajectories=trajectories,
        scores=scores,
    )


def _bundle(
    config: DistillConfig,
    method: Any,
    problem: Problem,
    distilled: Distilled,
    dataset: Dataset,
    clock: Clock,
    teachers: Sequence[Bundle],
) -> Bundle:
    stored, metrics = _stored(distilled, problem.space, config)
    sections = [
        image_section(stored, problem.space),
        hard_section(distilled.labels, len(problem.classes)),
        *space_sections(problem.space),
    ]
    if distilled.indices is not None:
        chosen = {"scores.selection.indices": distilled.indices.to(torch.int32)}
        if distilled.weights is not None:
            chosen["scores.selection.weights"] = distilled.weights
        sections.append(NewSection("scores.selection", "scores", chosen, role="selection"))
    if distilled.patches is not None:
        cells = {"scores.mosaic.patches": distilled.patches.to(torch.int32)}
        if distilled.patch_losses is not None:
            cells["scores.mosaic.losses"] = distilled.patch_losses
        sections.append(NewSection("scores.mosaic", "scores", cells, role="mosaic"))
    record = clock.record(
        "distill",
        _effective(config, method, problem),
        seed=config.seed,
        inputs=teachers,
        metrics=metrics | dict(distilled.metrics),
    )
    data = dataset.manifest() | {"space": describe_space(problem.space)}
    if distilled.lr is not None:
        lr = torch.tensor(distilled.lr, dtype=torch.float32)
        sections.append(NewSection("student.lr", "student", {"student.lr": lr}))
    bundle = Bundle.create("distilled", data, record, sections)
    if distilled.logits is None:
        return bundle
    return Bundle.create("distilled", data, record, [*sections, learned_labels(bundle, distilled.logits, teachers)])


def learned_labels(bundle: Bundle, logits: Tensor, teachers: Sequence[Bundle]) -> NewSection:
    """Section `labels.soft` of the logits (n, k) that were learned with the images."""
    kind, codec = _plugins.load("labels", "soft", "KIND")(), _plugins.load("codecs", "f32", "CODEC")()
    return make_section(
        bundle,
        "soft",
        dict(kind.parameters(data_of(bundle)["height"])) | {"learned": True},
        logits.unsqueeze(1),
        domain="logit",
        codec_name="f32",
        codec=codec,
        teachers=[teacher.content for teacher in teachers],
    )


def _stored(distilled: Distilled, space: Space, config: DistillConfig) -> tuple[Tensor, dict[str, float]]:
    """The images as they are written, and what 8-bit storage cost."""
    wanted = config.pixels or ("uint8" if space.zca is None else "float32")
    if distilled.pixels is not None:
        return (distilled.pixels if wanted == "uint8" else space.encode(distilled.pixels)), {}
    if distilled.images is None:
        raise ValueError("a method must return images or pixels")
    if wanted == "float32":
        return distilled.images, {}
    return quantised(distilled.images, space)


def quantised(images: Tensor, space: Space) -> tuple[Tensor, dict[str, float]]:
    """Images (n, c, h, w) of model-input space as uint8 pixels, and what that cost."""
    units, pixels = space.decode(images), space.to_pixels(images)
    return pixels, {
        "clipped_fraction": float(((units < 0) | (units > 1)).float().mean()),
        "quantisation_rmse": float((units - pixels.float() / 255).square().mean().sqrt()),
    }
