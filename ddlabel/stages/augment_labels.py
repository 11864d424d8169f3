"""Stage `augment-labels`: teachers label what the bundle holds, as it will be decoded later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection
from ..codecs._choose import AUTO, check_max_kl
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig
from ..distilled import read_stored
from ..errors import UsageError
from ..events import OnEvent, ignore
from ..labels._labels import Kind, make_section
from ..labels._privileged import PRIVILEGED, PrivilegedKind
from ..options import as_dict, build_many, check
from ..preprocess import check_agreement, data_of
from ..teachers import Teacher
from ..team import ALONE, Team
from ._checkpoints import GUIDED, choose_checkpoints
from ._feature_labels import build_privileged, label_privileged
from ._labelling import Keeping, Labelling, label_views, settle_codec, teacher_nets
from ._partial import Progress, Task
from ._self_test import SLICE, check_backbones, check_recorded
from ._stage import computing, load_like, redact

__all__ = ["run"]

DEFAULT = "default"
"""Of `--checkpoint` and `--codec`: what suits the kind of labels."""


def run(
    bundle: Bundle,
    config: AugmentLabelsConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    teachers: Sequence[Bundle],
    on_event: OnEvent = ignore,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Bundle:
    """Add one section of labels: what all chosen checkpoints say of every image.

    That is the mean logits of every view, or for feature and attention labels what a layer gives.

    Args:
        bundle: a distilled bundle.
        config: label kind, checkpoint and codec.
        settings: further options of the kind and the codec (`--set`).
        teachers: one or more teacher bundles; several are combined over logits as `config.ensemble` says.
        on_event: told of progress.
        progress: where states go, and one to continue from; the result has the same bits either way.
        team: processes that share the batches of views.

    Returns:
        The bundle with section `labels.<kind>`, replaced if it was there.

    Raises:
        UsageError: unknown kind, codec, option, checkpoint or layer; no teacher; a state of other options.
        BundleError: a teacher of other classes, image shape or space, or at chance; a damaged state.
        DivergedError: a label that is not finite.
    """
    check(config)
    config = with_codec(config)
    kind, codec = build_kind_and_codec(config, settings or {})
    if not teachers:
        raise UsageError("labels come from a teacher, expected --teacher FILE", field="teacher")
    if len({teacher.content for teacher in teachers}) < len(teachers):
        raise UsageError("a teacher is given twice, its say would count double", field="teacher")
    _check_data(config)
    if config.checkpoint == DEFAULT:
        config = dataclasses.replace(config, checkpoint=_default_checkpoint(kind, teachers))
    with computing(config.device, config.threads, team) as clock:
        for teacher in teachers:
            check_agreement(teacher, bundle)
        images = read_stored(bundle)

        def label(epoch: str) -> Bundle:
            tried = dataclasses.replace(config, checkpoint=epoch, data=None, self_test=0.0)
            return run(bundle, tried, settings, teachers=teachers)

        if not isinstance(kind, PrivilegedKind):
            kind = kind.bound(seed=config.seed, flip=bool(data_of(bundle)["flip"]))
            kind.parameters(images.side)  # refuses what cannot work before anything is labelled
            if codec is not None:
                codec.domain("logit")
                codec.check(kind.view_count, len(images.classes))
        picked = choose_checkpoints(bundle, config, images, teachers, label, clock, on_event)
        nets = teacher_nets(teachers, picked.sections, clock)
        labelling = Labelling(bundle, config, images, teachers, picked.sections, nets, clock, on_event)
        if not isinstance(kind, PrivilegedKind):
            _self_test(labelling)
        said = (
            as_dict(config)
            | {"data": redact(config.data) if config.data else None, "checkpoints": list(picked.sections)}
            | {"options": as_dict(kind) | ({} if codec is None else as_dict(codec))}
        )
        labelling = _follow(labelling, progress or Progress(), said, team)
        if isinstance(kind, PrivilegedKind):
            section, codec, metrics = label_privileged(labelling, kind, codec)
        else:
            section, codec, metrics = _label_classes(labelling, kind, codec)
        record = labelling.clock.record(
            "augment-labels",
            said | {"codec": (section.codec or {})["name"], "options": as_dict(kind) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle, *teachers],
            metrics=metrics | picked.metrics,
        )
        return bundle.with_stage(record, add=[section])


def _check_data(config: AugmentLabelsConfig) -> None:
    """`--data` has a use.

    Raises:
        UsageError: nothing would read it.
    """
    tests = config.self_test > 0 and config.kind not in PRIVILEGED
    if config.data is not None and config.checkpoint != "auto" and not tests:
        raise UsageError(
            "--data is for --checkpoint auto and for the --self-test of class labels, nothing else reads it",
            field="data",
        )


def _self_test(labelling: Labelling) -> None:
    """Refuse teachers that do not know the classes: on real images where there are some, else by what is recorded."""
    config, images, nets = labelling.config, labelling.images, labelling.nets
    said = (config.self_test, labelling.on_event)
    if config.data is not None and config.self_test:
        dataset = load_like(labelling.bundle, config.data, labelling.on_event)
        check_backbones(labelling.checkpoints, nets, dataset, images.space, *said)
    elif config.self_test:
        rows = torch.linspace(0, len(images) - 1, min(SLICE, len(images))).round().long()
        some, classes = (images.encode(rows), images.labels[rows]), len(images.classes)
        check_recorded(labelling.checkpoints, nets, *some, classes, *said)


def _follow(labelling: Labelling, progress: Progress, said: Mapping[str, Any], team: Team) -> Labelling:
    """The same with a clock that counts earlier runs, and with what is kept on the way."""
    task, saved = progress.begin(
        Task(
            clock=labelling.clock,
            stage="augment-labels",
            config=said,
            seed=labelling.config.seed,
            inputs=[labelling.bundle, *labelling.teachers],
            data=data_of(labelling.bundle),
            unit="images" if labelling.config.kind in PRIVILEGED else "views",
        ),
        labelling.on_event,
    )
    return dataclasses.replace(labelling, clock=task.clock, keeping=Keeping(progress, saved, team))


def _label_classes(labelling: Labelling, kind: Kind, codec: Codec | None) -> tuple[NewSection, Codec, dict[str, Any]]:
    """Class labels: the section, the codec that was named or chosen, and the metrics."""
    config, images = labelling.config, labelling.images
    values = label_views(
        images,
        kind,
        labelling.nets,
        labelling.clock,
        labelling.on_event,
        ensemble=config.ensemble,
        keeping=labelling.keeping,
    )
    codec_name, codec, table = settle_codec(config.codec, codec, values, "logit", config.max_kl, labelling.on_event)
    section = make_section(
        labelling.bundle,
        config.kind,
        kind.parameters(images.side),
        values,
        domain="logit",
        codec_name=codec_name,
        codec=codec,
        teachers=[teacher.content for teacher in labelling.teachers],
        augmentation=kind.augmentation(len(images), images.side),
    )
    metrics = {
        "agreement_with_hard": _agreement(values, images.labels),
        "flops": {"labelling": labelling.flops(values[..., 0].numel())},
        **table,
    }
    return section, codec, metrics | ({"labellers": labelling.describe()} if config.checkpoint == GUIDED else {})


def _default_checkpoint(kind: Kind | PrivilegedKind, teachers: Sequence[Bundle]) -> str:
    """`last` for class labels and noise, 1 for features: those of a converged net tell classes apart too well.

    Raises:
        UsageError: a teacher did not keep epoch 1.
    """
    if not isinstance(kind, PrivilegedKind) or kind.source == "noise":
        return "last"
    for teacher in teachers:
        kept = sorted({checkpoint.epoch for checkpoint in Teacher(teacher).checkpoints})
        if 1 not in kept:
            raise UsageError(
                f"feature and attention labels are of epoch 1 where nothing is said, {teacher.name} kept "
                f"{', '.join(map(str, kept))}",
                field="checkpoint",
                hint="train the teacher with --keep 1,..., or say --checkpoint last",
            )
    return "1"


def with_codec(config: AugmentLabelsConfig) -> AugmentLabelsConfig:
    """The same with the codec that suits the labels, where none is named."""
    if config.codec != DEFAULT:
        return config
    return dataclasses.replace(config, codec="f16" if config.kind in PRIVILEGED else "f32")


def build_kind_and_codec(
    config: AugmentLabelsConfig, settings: Mapping[str, Any]
) -> tuple[Kind | PrivilegedKind, Codec | None]:
    """The label kind and codec records, from the explicit options and `--set`; no codec when it is to be chosen."""
    if config.kind in PRIVILEGED:
        return build_privileged(config, settings)
    explicit = {name: value for name in ("grid", "ratio") if (value := getattr(config, name)) is not None}
    if explicit and config.kind != "dense":
        raise UsageError(f"--{next(iter(explicit))} is for --kind dense, --kind is '{config.kind}'", field="kind")
    check_max_kl(config.codec, config.max_kl)
    classes = [_plugins.load("labels", config.kind, "KIND")]
    if config.codec == AUTO:
        return build_many(classes, {**settings, **explicit})[0], None
    kind, codec = build_many([*classes, _plugins.load("codecs", config.codec, "CODEC")], {**settings, **explicit})
    return kind, codec


def _agreement(values: Tensor, labels: Tensor) -> float:
    """Share of views whose largest logit is the hard label."""
    return float((values.argmax(dim=-1) == labels[:, None]).float().mean())
