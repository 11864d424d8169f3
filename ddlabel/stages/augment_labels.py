"""Stage `augment-labels`: teachers label what the bundle holds, as it will be decoded later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _plugins
from ..bundle import Bundle
from ..codecs._choose import AUTO, check_max_kl, choose
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig, as_dict, build_many, check
from ..distilled import DistilledSet, read_distilled
from ..errors import UsageError
from ..events import Event, OnEvent, ignore
from ..labels._labels import make_section
from ..nets._net import Net
from ..preprocess import check_agreement
from ..teachers import Teacher
from ._stage import Clock, computing

__all__ = ["label_views", "run", "settle_codec", "teacher_nets"]

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
        teachers: one or more teacher bundles; several are averaged over logits.
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
        nets = teacher_nets(teachers, config.checkpoint, clock)
        values = label_views(distilled, kind, nets, clock, on_event)
        codec_name, codec, table = settle_codec(config.codec, codec, values, "logit", config.max_kl, on_event)
        section = make_section(
            bundle,
            config.kind,
            kind.parameters(distilled.images.shape[-1]),
            values,
            domain="logit",
            codec_name=codec_name,
            codec=codec,
            teachers=[teacher.content for teacher in teachers],
        )
        record = clock.record(
            "augment-labels",
            as_dict(config) | {"codec": codec_name, "options": as_dict(kind) | as_dict(codec)},
            seed=config.seed,
            inputs=[bundle, *teachers],
            metrics={"agreement_with_hard": _agreement(values, distilled.labels)} | table,
        )
        return bundle.with_stage(record, add=[section])


def build_kind_and_codec(config: AugmentLabelsConfig, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """The label kind and codec records, from the explicit options and `--set`; no codec when it is to be chosen."""
    explicit = {name: value for name in ("grid", "ratio") if (value := getattr(config, name)) is not None}
    check_max_kl(config.codec, config.max_kl)
    classes = [_plugins.load("labels", config.kind, "KIND")]
    if config.codec == AUTO:
        return build_many(classes, {**settings, **explicit})[0], None
    kind, codec = build_many([*classes, _plugins.load("codecs", config.codec, "CODEC")], {**settings, **explicit})
    return kind, codec


def settle_codec(
    name: str, codec: Codec | None, values: Tensor, domain: str, max_kl: float | None, on_event: OnEvent
) -> tuple[str, Codec, dict[str, Any]]:
    """The codec that was named, or the one chosen by the values, with the table of candidates for the metrics."""
    if codec is not None:
        return name, codec, {}
    choice = choose(values, domain, check_max_kl(name, max_kl))
    for row in choice.table:
        options = "".join(f" {key}={value}" for key, value in row["options"].items())
        message = f"{row['codec']}{options}: {row['bytes']} bytes, KL {row['kl_t1']:.3g}"
        on_event(Event(phase="choosing a codec", message=message))
    on_event(Event(phase="choosing a codec", message=f"codec {choice.name} is the smallest that loses little enough"))
    return choice.name, choice.codec, {"candidates": choice.table}


def teacher_nets(teachers: Sequence[Bundle], checkpoint: str, clock: Clock) -> list[Net]:
    """The chosen checkpoints of all teachers, on the device, in eval mode."""
    loaded = [Teacher(bundle) for bundle in teachers]
    return [teacher.net(chosen, clock.device) for teacher in loaded for chosen in teacher.select(checkpoint)]


def label_views(
    distilled: DistilledSet, kind: Any, nets: Sequence[Net], clock: Clock, on_event: OnEvent = ignore
) -> Tensor:
    """Mean logits over nets for every view: (n, v, k) float32 on the CPU."""
    images = distilled.images
    count = kind.view_count
    step = max(1, VIEWS_AT_ONCE // count)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), step):
            views = kind.views(images[start : start + step]).to(clock.device)
            flat = views.flatten(0, 1)
            logits = torch.stack([net(flat) for net in nets]).mean(dim=0)
            parts.append(logits.reshape(views.shape[0], count, -1).cpu())
            on_event(Event(phase="labelling views", done=min(start + step, len(images)), total=len(images)))
    return torch.cat(parts)


def _agreement(values: Tensor, labels: Tensor) -> float:
    """Share of views whose largest logit is the hard label."""
    return float((values.argmax(dim=-1) == labels[:, None]).float().mean())
