"""What teachers say of the views of images, and the codec that their answers are stored with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle
from ..codecs._choose import check_max_kl, choose
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig
from ..distilled import DistilledSet
from ..events import Event, OnEvent, ignore
from ..labels._labels import Kind
from ..nets._flops import forward_flops
from ..nets._net import Net
from ..preprocess import data_of
from ..privileged._form import Form
from ..teachers import Checkpoint, Teacher, combine
from ._stage import Clock

__all__ = ["Labelling", "label_features", "label_views", "settle_codec", "teacher_nets"]

VIEWS_AT_ONCE = 256
"""Views in one forward pass of a teacher."""


@dataclass(frozen=True)
class Labelling:
    """Images, and the checkpoints that label them."""

    bundle: Bundle
    config: AugmentLabelsConfig
    distilled: DistilledSet
    """What the bundle holds."""
    teachers: Sequence[Bundle]
    sections: Sequence[str]
    """For each teacher its checkpoints' sections, joined by commas."""
    clock: Clock
    on_event: OnEvent

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Of all teachers."""
        each = zip(map(Teacher, self.teachers), self.sections, strict=True)
        return [checkpoint for teacher, names in each for checkpoint in teacher.select(names)]

    def nets(self) -> list[Net]:
        """Those checkpoints, on the device, in eval mode."""
        return teacher_nets(self.teachers, self.sections, self.clock)

    def flops(self, views: int) -> int:
        """FLOPs of asking all of them about so many views."""
        data = data_of(self.bundle)
        shape = {"channels": data["channels"], "size": data["height"], "classes": len(data["classes"])}
        return views * sum(forward_flops(checkpoint.arch, **shape) for checkpoint in self.checkpoints)

    def describe(self, nets: Sequence[Net]) -> list[dict[str, Any]]:
        """Of each net its section, epoch, accuracies, and the mean entropy in nats of its answers for the images."""
        described = []
        with torch.inference_mode():
            for checkpoint, net in zip(self.checkpoints, nets, strict=True):
                chunks = self.distilled.images.split(VIEWS_AT_ONCE)
                logs = [net(chunk.to(self.clock.device)).cpu().double().log_softmax(dim=1) for chunk in chunks]
                entropy = float(-torch.cat([log.exp() * log for log in logs]).sum(dim=1).mean())
                described.append(
                    {
                        "section": checkpoint.section,
                        "epoch": checkpoint.epoch,
                        "accuracy": dict(checkpoint.accuracy),
                        "entropy": entropy if math.isfinite(entropy) else None,
                    }
                )
        return described


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


def label_features(
    distilled: DistilledSet,
    form: Form,
    nets: Sequence[Net],
    clock: Clock,
    on_event: OnEvent = ignore,
    *,
    keep: str = "mean",
) -> Tensor:
    """What the form's layer gives for each image, (n, K, *form.shape) float32 on the CPU.

    Args:
        distilled: the images, as they will be decoded.
        form: layer, and how it is pooled.
        nets: in eval mode, all of the form's architecture.
        clock, on_event: device and listener.
        keep: `mean`, over nets and then pooled, K = 1; or `all` of them.
    """
    parts, count = [], len(distilled.images)
    with torch.inference_mode():
        for images in distilled.images.split(VIEWS_AT_ONCE):
            batch = images.to(clock.device)
            maps = [net.tap(batch, form.layer)[0] for net in nets]
            kept = maps if keep == "all" else [torch.stack(maps).mean(dim=0)]
            parts.append(torch.stack([form.reduce(one) for one in kept], dim=1).cpu())
            on_event(Event(phase="labelling images", done=sum(map(len, parts)), total=count))
    return torch.cat(parts)


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
