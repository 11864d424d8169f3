"""Stage `augment-labels`: teachers label what the bundle holds, as it will be decoded later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .. import _plugins
from ..bundle import Bundle
from ..codecs._choose import AUTO, check_max_kl
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig
from ..distilled import read_distilled
from ..errors import UsageError
from ..events import OnEvent, ignore
from ..labels._labels import Kind, make_section
from ..options import as_dict, build_many, check
from ..preprocess import check_agreement, data_of
from ._checkpoints import choose_checkpoints
from ._labelling import label_views, labelling_flops, settle_codec, teacher_nets
from ._stage import computing, redact

__all__ = ["run"]

DEFAULT = "default"
"""`--checkpoint default`."""


def run(
    bundle: Bundle,
    config: AugmentLabelsConfig,
    settings: Mapping[str, Any] | None = None,
    *,
    teachers: Sequence[Bundle],
    on_event: OnEvent = ignore,
) -> Bundle:
    """Add one section of labels: the mean logits of all chosen checkpoints for every view of every image.

    Args:
        bundle: a distilled bundle.
        config: label kind, checkpoint and codec.
        settings: further options of the kind and the codec (`--set`).
        teachers: one or more teacher bundles; several are combined over logits as `config.ensemble` says.
        on_event: told of progress.

    Returns:
        The bundle with section `labels.<kind>`, replaced if it was there.

    Raises:
        UsageError: unknown kind, codec, option or checkpoint; no teacher.
        BundleError: a teacher of other classes, image shape or space.
    """
    check(config)
    if config.checkpoint == DEFAULT:
        config = dataclasses.replace(config, checkpoint="last")
    kind, codec = build_kind_and_codec(config, settings or {})
    if not teachers:
        raise UsageError("labels come from a teacher, expected --teacher FILE", field="teacher")
    if len({teacher.content for teacher in teachers}) < len(teachers):
        raise UsageError("a teacher is given twice, its say would count double", field="teacher")
    if config.data is not None and config.checkpoint != "auto":
        raise UsageError("--data is for --checkpoint auto, expected both or none", field="data")
    with computing(config.device, config.threads) as clock:
        for teacher in teachers:
            check_agreement(teacher, bundle)
        distilled = read_distilled(bundle)

        def label(epoch: str) -> Bundle:
            return run(bundle, dataclasses.replace(config, checkpoint=epoch, data=None), settings, teachers=teachers)

        kind = kind.bound(seed=config.seed, flip=bool(data_of(bundle)["flip"]))
        size = distilled.images.shape[-1]
        parameters = kind.parameters(size)  # refuses what cannot work before anything is labelled
        chosen = choose_checkpoints(bundle, config, distilled, teachers, label, clock, on_event)
        nets = teacher_nets(teachers, chosen.sections, clock)
        values = label_views(distilled, kind, nets, clock, on_event, ensemble=config.ensemble)
        codec_name, codec, table = settle_codec(config.codec, codec, values, "logit", config.max_kl, on_event)
        section = make_section(
            bundle,
            config.kind,
            parameters,
            values,
            domain="logit",
            codec_name=codec_name,
            codec=codec,
            teachers=[teacher.content for teacher in teachers],
            augmentation=kind.augmentation(len(distilled.images), size),
        )
        record = clock.record(
            "augment-labels",
            as_dict(config)
            | {"data": redact(config.data) if config.data else None, "checkpoints": list(chosen.sections)}
            | {"codec": codec_name, "options": as_dict(kind) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle, *teachers],
            metrics={
                "agreement_with_hard": _agreement(values, distilled.labels),
                "flops": {"labelling": labelling_flops(bundle, teachers, chosen.sections, values[..., 0].numel())},
                **chosen.metrics,
                **table,
            },
        )
        return bundle.with_stage(record, add=[section])


def build_kind_and_codec(config: AugmentLabelsConfig, settings: Mapping[str, Any]) -> tuple[Kind, Codec | None]:
    """The label kind and codec records, from the explicit options and `--set`; no codec when it is to be chosen."""
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
