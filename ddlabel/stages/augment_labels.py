"""Stage `augment-labels`: teachers label what the bundle holds, as it will be decoded later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .. import _plugins
from ..bundle import Bundle, NewSection
from ..codecs._choose import AUTO, check_max_kl
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig
from ..distilled import read_distilled
from ..errors import UsageError
from ..events import OnEvent, ignore
from ..labels._labels import Kind, make_section
from ..labels._privileged import PRIVILEGED, PrivilegedKind
from ..options import as_dict, build_many, check
from ..preprocess import check_agreement, data_of
from ..teachers import Teacher
from ._checkpoints import GUIDED, choose_checkpoints
from ._feature_labels import build_privileged, label_privileged
from ._labelling import Labelling, label_views, settle_codec
from ._stage import computing, redact

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
) -> Bundle:
    """Add one section of labels: what all chosen checkpoints say of every image.

    That is the mean logits of every view, or for feature and attention labels what a layer gives.

    Args:
        bundle: a distilled bundle.
        config: label kind, checkpoint and codec.
        settings: further options of the kind and the codec (`--set`).
        teachers: one or more teacher bundles; several are combined over logits as `config.ensemble` says.
        on_event: told of progress.

    Returns:
        The bundle with section `labels.<kind>`, replaced if it was there.

    Raises:
        UsageError: unknown kind, codec, option, checkpoint or layer; no teacher.
        BundleError: a teacher of other classes, image shape or space.
        DivergedError: a label that is not finite.
    """
    check(config)
    if config.codec == DEFAULT:
        config = dataclasses.replace(config, codec="f16" if config.kind in PRIVILEGED else "f32")
    kind, codec = build_kind_and_codec(config, settings or {})
    if not teachers:
        raise UsageError("labels come from a teacher, expected --teacher FILE", field="teacher")
    if len({teacher.content for teacher in teachers}) < len(teachers):
        raise UsageError("a teacher is given twice, its say would count double", field="teacher")
    if config.data is not None and config.checkpoint != "auto":
        raise UsageError("--data is for --checkpoint auto, expected both or none", field="data")
    if config.checkpoint == DEFAULT:
        config = dataclasses.replace(config, checkpoint=_default_checkpoint(kind, teachers))
    with computing(config.device, config.threads) as clock:
        for teacher in teachers:
            check_agreement(teacher, bundle)
        distilled = read_distilled(bundle)

        def label(epoch: str) -> Bundle:
            return run(bundle, dataclasses.replace(config, checkpoint=epoch, data=None), settings, teachers=teachers)

        if not isinstance(kind, PrivilegedKind):
            kind = kind.bound(seed=config.seed, flip=bool(data_of(bundle)["flip"]))
            kind.parameters(distilled.images.shape[-1])  # refuses what cannot work before anything is labelled
        picked = choose_checkpoints(bundle, config, distilled, teachers, label, clock, on_event)
        labelling = Labelling(bundle, config, distilled, teachers, picked.sections, clock, on_event)
        if isinstance(kind, PrivilegedKind):
            section, codec, metrics = label_privileged(labelling, kind, codec)
        else:
            section, codec, metrics = _label_classes(labelling, kind, codec)
        record = clock.record(
            "augment-labels",
            as_dict(config)
            | {"data": redact(config.data) if config.data else None, "checkpoints": list(picked.sections)}
            | {"codec": (section.codec or {})["name"], "options": as_dict(kind) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle, *teachers],
            metrics=metrics | picked.metrics,
        )
        return bundle.with_stage(record, add=[section])


def _label_classes(labelling: Labelling, kind: Kind, codec: Codec | None) -> tuple[NewSection, Codec, dict[str, Any]]:
    """Class labels: the section, the codec that was named or chosen, and the metrics."""
    config, distilled, nets = labelling.config, labelling.distilled, labelling.nets()
    values = label_views(distilled, kind, nets, labelling.clock, labelling.on_event, ensemble=config.ensemble)
    codec_name, codec, table = settle_codec(config.codec, codec, values, "logit", config.max_kl, labelling.on_event)
    size = distilled.images.shape[-1]
    section = make_section(
        labelling.bundle,
        config.kind,
        kind.parameters(size),
        values,
        domain="logit",
        codec_name=codec_name,
        codec=codec,
        teachers=[teacher.content for teacher in labelling.teachers],
        augmentation=kind.augmentation(len(distilled.images), size),
    )
    metrics = {
        "agreement_with_hard": _agreement(values, distilled.labels),
        "flops": {"labelling": labelling.flops(values[..., 0].numel())},
        **table,
    }
    return section, codec, metrics | ({"labellers": labelling.describe(nets)} if config.checkpoint == GUIDED else {})


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
