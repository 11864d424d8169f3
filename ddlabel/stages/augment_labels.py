"""Stage `augment-labels`: teachers label what the bundle holds, as it will be decoded later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig, as_dict, build_many, check
from ..distilled import DistilledSet, read_distilled
from ..errors import UsageError
from ..events import Event, OnEvent, ignore
from ..labels._labels import Kind, make_section
from ..nets._flops import forward_flops
from ..nets._net import Net
from ..preprocess import check_agreement, data_of
from ..teachers import Teacher, combine
from ._checkpoints import choose_checkpoints
from ._stage import Clock, computing, redact

__all__ = ["label_views", "run", "teacher_nets"]

VIEWS_AT_ONCE = 256
"""Views in one forward pass of a teacher."""


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
    kind, codec = build_kind_and_codec(config, settings or {})
    if not teachers:
        raise UsageError("labels come from a teacher, expected --teacher FILE", field="teacher")
    with computing(config.device, config.threads) as clock:
        for teacher in teachers:
            check_agreement(teacher, bundle)
        distilled = read_distilled(bundle)

        def label(epoch: str) -> Bundle:
            return run(bundle, dataclasses.replace(config, checkpoint=epoch), settings, teachers=teachers)

        kind = kind.bound(seed=config.seed, flip=bool(data_of(bundle)["flip"]))
        size = distilled.images.shape[-1]
        parameters = kind.parameters(size)  # refuses what cannot work before anything is labelled
        chosen = choose_checkpoints(bundle, config, distilled, teachers, label, clock, on_event)
        nets = teacher_nets(teachers, chosen.sections, clock)
        values = label_views(distilled, kind, nets, clock, on_event, ensemble=config.ensemble)
        section = make_section(
            bundle,
            config.kind,
            parameters,
            values,
            domain="logit",
            codec_name=config.codec,
            codec=codec,
            teachers=[teacher.content for teacher in teachers],
            augmentation=kind.augmentation(len(distilled.images), size),
        )
        record = clock.record(
            "augment-labels",
            as_dict(config)
            | {"data": redact(config.data) if config.data else None, "checkpoints": list(chosen.sections)}
            | {"options": as_dict(kind) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle, *teachers],
            metrics={
                "agreement_with_hard": _agreement(values, distilled.labels),
                "flops": {"labelling": len(values) * values.shape[1] * _forward(bundle, teachers, chosen.sections)},
                **chosen.metrics,
            },
        )
        return bundle.with_stage(record, add=[section])


def build_kind_and_codec(config: AugmentLabelsConfig, settings: Mapping[str, Any]) -> tuple[Kind, Codec]:
    """The label kind and codec records, from the explicit options and `--set`."""
    explicit = {name: value for name in ("grid", "ratio") if (value := getattr(config, name)) is not None}
    classes = [_plugins.load("labels", config.kind, "KIND"), _plugins.load("codecs", config.codec, "CODEC")]
    kind, codec = build_many(classes, {**settings, **explicit})
    return kind, codec


def teacher_nets(teachers: Sequence[Bundle], sections: Sequence[str], clock: Clock) -> list[Net]:
    """The chosen checkpoints of all teachers, on the device, in eval mode.

    Args:
        teachers: bundles.
        sections: for each bundle its checkpoints' sections, joined by commas.
        clock: names the device.
    """
    return [
        teacher.net(chosen, clock.device)
        for teacher, names in zip(map(Teacher, teachers), sections, strict=True)
        for chosen in teacher.select(names)
    ]


def label_views(
    distilled: DistilledSet,
    kind: Kind,
    nets: Sequence[Net],
    clock: Clock,
    on_event: OnEvent = ignore,
    *,
    ensemble: str = "mean",
) -> Tensor:
    """Logits of every view, combined over nets: (n, v, k) float32 on the CPU."""
    images = distilled.images.to(clock.device)
    count, total = kind.view_count, len(images) * kind.view_count
    step = count * max(1, VIEWS_AT_ONCE // count) if count <= VIEWS_AT_ONCE else VIEWS_AT_ONCE
    parts = []
    with torch.inference_mode():
        for start in range(0, total, step):
            pairs = torch.arange(start, min(start + step, total))
            views = kind.view(images, pairs // count, pairs % count)
            parts.append(combine([net(views) for net in nets], ensemble).cpu())
            on_event(Event(phase="labelling views", done=int(pairs[-1]) + 1, total=total))
    return torch.cat(parts).reshape(len(images), count, -1)


def _forward(bundle: Bundle, teachers: Sequence[Bundle], sections: Sequence[str]) -> int:
    """FLOPs of asking all chosen nets about one view."""
    data = data_of(bundle)
    return sum(
        forward_flops(chosen.arch, channels=data["channels"], size=data["height"], classes=len(data["classes"]))
        for teacher, names in zip(map(Teacher, teachers), sections, strict=True)
        for chosen in teacher.select(names)
    )


def _agreement(values: Tensor, labels: Tensor) -> float:
    """Share of views whose largest logit is the hard label."""
    return float((values.argmax(dim=-1) == labels[:, None]).float().mean())
