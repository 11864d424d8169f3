"""What teachers say of the views of images, and the codec that their answers are stored with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle
from ..codecs._choose import check_max_kl, choose
from ..codecs._codec import Codec
from ..distilled import DistilledSet
from ..events import Event, OnEvent, ignore
from ..labels._labels import Kind
from ..nets._flops import forward_flops
from ..nets._net import Net
from ..preprocess import data_of
from ..teachers import Teacher, combine
from ._stage import Clock

__all__ = ["label_views", "labelling_flops", "settle_codec", "teacher_nets"]

VIEWS_AT_ONCE = 256
"""Views in one forward pass of a teacher."""


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


def labelling_flops(bundle: Bundle, teachers: Sequence[Bundle], sections: Sequence[str], views: int) -> int:
    """FLOPs of asking all chosen nets about so many views."""
    data = data_of(bundle)
    return views * sum(
        forward_flops(chosen.arch, channels=data["channels"], size=data["height"], classes=len(data["classes"]))
        for teacher, names in zip(map(Teacher, teachers), sections, strict=True)
        for chosen in teacher.select(names)
    )


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
