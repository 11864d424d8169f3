"""What teachers say of the views of images, and the codec that their answers are stored with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle, NewSection
from ..codecs._choose import check_max_kl, choose
from ..codecs._codec import Codec
from ..config import AugmentLabelsConfig
from ..distilled import DistilledSet, StoredSet
from ..errors import BundleError
from ..events import Event, OnEvent, ignore
from ..labels._labels import Kind
from ..nets._flops import forward_flops
from ..nets._net import Net
from ..preprocess import data_of
from ..privileged._form import Form
from ..teachers import Checkpoint, Teacher, combine
from ..team import ALONE, Team
from ._partial import Progress, Saved, state_section
from ._stage import Clock

__all__ = ["Keeping", "Labelling", "label_features", "label_views", "settle_codec", "stored_of", "teacher_nets"]

VIEWS_AT_ONCE = 256
"""Views in one forward pass of a teacher."""
STATE = "state.labels"
"""Section of the answers of an unfinished run."""

Answer = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Keeping:
    """Where answers are kept while more are asked for: by default nowhere."""

    progress: Progress | None = None
    saved: Saved | None = None
    """Answers of a run that was interrupted, to go on from."""
    team: Team = ALONE
    """Who else asks: each its share of the steps, and all get all answers."""

    def collect(self, total: int, step: int, answer: Answer, on_event: OnEvent, phase: str) -> Tensor:
        """All answers, asked for in steps of fixed places, so that continued runs round as uninterrupted ones do.

        Args:
            total: how many.
            step: asked for at once.
            answer: gives those from a first to before a last one, (last - first, ...) float32 on the CPU.
            on_event: told of every step.
            phase: what the events call it.

        Returns:
            (total, ...) float32.

        Raises:
            BundleError: the state is not of such answers.
        """
        every = list(_chunks(total, step))
        own = self.team.mine(every)
        values, finished = self._restored(total, own)
        count = sum(rows.stop - rows.start for rows in own)
        done = sum(rows.stop - rows.start for rows in own[:finished])
        for number, rows in enumerate(own[finished:], start=finished + 1):
            part = answer(rows.start, rows.stop)
            values = torch.empty(total, *part.shape[1:]) if values is None else values
            if part.shape[1:] != values.shape[1:]:
                raise _other_state(self.saved)
            values[rows] = part
            done += len(part)
            if self.progress is not None:
                self.progress.reached(done, count, _section_taker(values, own[:number]))
            on_event(Event(phase=phase, done=done, total=count))
        return self._gathered(values, every)

    def _gathered(self, values: Tensor | None, every: Sequence[slice]) -> Tensor:
        """The answers of all processes."""
        if self.team.size > 1 and self.progress is not None:
            self.progress.rest()
        shapes = self.team.exchange_json(None if values is None else list(values.shape))
        shape = next((shape for shape in shapes if shape is not None), None)
        if shape is None:
            raise ValueError("nothing was asked")
        values = torch.empty(shape) if values is None else values
        for number, rows in enumerate(every):
            self.team.fill(values[rows], number % self.team.size)
        return values

    def _restored(self, total: int, own: Sequence[slice]) -> tuple[Tensor | None, int]:
        """Our answers of an earlier run with room for all others, and how many of our chunks they are."""
        if self.saved is None:
            return None, 0
        found, done = self.saved.state(STATE).get("values"), self.saved.done
        lengths = [rows.stop - rows.start for rows in own]
        finished = next((number for number in range(len(own) + 1) if sum(lengths[:number]) == done), None)
        whole = found is not None and found.dtype == torch.float32 and found.ndim >= 2 and len(found) == done
        if found is None or not whole or self.saved.total != sum(lengths) or finished is None:
            raise _other_state(self.saved)
        values = torch.empty(total, *found.shape[1:])
        for rows, part in zip(own[:finished], found.split(lengths[:finished]), strict=True):
            values[rows] = part
        return values, finished


@dataclass(frozen=True)
class Labelling:
    """Images, and the checkpoints that label them."""

    bundle: Bundle
    config: AugmentLabelsConfig
    images: StoredSet
    """What the bundle holds."""
    teachers: Sequence[Bundle]
    sections: Sequence[str]
    """For each teacher its checkpoints' sections, joined by commas."""
    nets: Sequence[Net]
    """Those checkpoints, on the device, in eval mode."""
    clock: Clock
    on_event: OnEvent
    keeping: Keeping = field(default_factory=lambda: Keeping())
    """Where answers go on the way."""

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Of all teachers."""
        each = zip(map(Teacher, self.teachers), self.sections, strict=True)
        return [checkpoint for teacher, names in each for checkpoint in teacher.select(names)]

    def flops(self, views: int) -> int:
        """FLOPs of asking all of them about so many views."""
        data = data_of(self.bundle)
        shape = {"channels": data["channels"], "size": data["height"], "classes": len(data["classes"])}
        return views * sum(forward_flops(checkpoint.arch, **shape) for checkpoint in self.checkpoints)

    def describe(self) -> list[dict[str, Any]]:
        """Of each net its section, epoch, accuracies, and the mean entropy in nats of its answers for the images."""
        described = []
        with torch.inference_mode():
            for checkpoint, net in zip(self.checkpoints, self.nets, strict=True):
                chunks = (self.images.encode(rows) for rows in _chunks(len(self.images), VIEWS_AT_ONCE))
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


def stored_of(distilled: DistilledSet) -> StoredSet:
    """Images that are decoded already, as something to label."""
    return StoredSet(distilled.images, distilled.labels, distilled.classes, distilled.space)


def label_views(
    images: StoredSet,
    kind: Kind,
    nets: Sequence[Net],
    clock: Clock,
    on_event: OnEvent = ignore,
    *,
    ensemble: str = "mean",
    keeping: Keeping | None = None,
) -> Tensor:
    """Logits of every view, combined over nets: (n, v, k) float32 on the CPU.

    Images are decoded a few at a time, unless views are made of several of them.

    Args:
        images: as they are stored.
        kind: says what is viewed.
        nets: in eval mode.
        clock, on_event: device and listener.
        ensemble: how several nets answer, as `combine` says.
        keeping: where answers go on the way.
    """
    count, total = kind.view_count, len(images) * kind.view_count
    step = count * max(1, VIEWS_AT_ONCE // count) if count <= VIEWS_AT_ONCE else VIEWS_AT_ONCE
    every = None if kind.own_image else images.encode().to(clock.device)

    def answer(start: int, stop: int) -> Tensor:
        pairs = torch.arange(start, stop)
        first, last = start // count, (stop - 1) // count
        offset, seen = (0, every) if every is not None else (first, images.encode(slice(first, last + 1)))
        views = kind.view(seen.to(clock.device), pairs // count - offset, pairs % count)
        return combine([net(views) for net in nets], ensemble).cpu()

    with torch.inference_mode():
        values = (keeping or Keeping()).collect(total, step, answer, on_event, "labelling views")
    return values.reshape(len(images), count, -1)


def label_features(
    images: StoredSet,
    form: Form,
    nets: Sequence[Net],
    clock: Clock,
    on_event: OnEvent = ignore,
    *,
    keep: str = "mean",
    keeping: Keeping | None = None,
) -> Tensor:
    """What the form's layer gives for each image, (n, K, *form.shape) float32 on the CPU.

    Args:
        images: as they will be decoded.
        form: layer, and how it is pooled.
        nets: in eval mode, all of the form's architecture.
        clock, on_event: device and listener.
        keep: `mean`, over nets and then pooled, K = 1; or `all` of them.
        keeping: where answers go on the way.
    """

    def answer(start: int, stop: int) -> Tensor:
        batch = images.encode(slice(start, stop)).to(clock.device)
        maps = [net.tap(batch, form.layer)[0] for net in nets]
        kept = maps if keep == "all" else [torch.stack(maps).mean(dim=0)]
        return torch.stack([form.reduce(one) for one in kept], dim=1).cpu()

    with torch.inference_mode():
        return (keeping or Keeping()).collect(len(images), VIEWS_AT_ONCE, answer, on_event, "labelling images")


def _chunks(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _section_taker(values: Tensor, done: Sequence[slice]) -> Callable[[], list[NewSection]]:
    """Takes answers that will not change any more; without a copy where they stand together."""

    def take() -> list[NewSection]:
        together = all(one.stop == next_one.start for one, next_one in pairwise(done))
        found = values[done[0].start : done[-1].stop] if together else torch.cat([values[rows] for rows in done])
        return [state_section(STATE, {"values": found})]

    return take


def _other_state(saved: Saved | None) -> BundleError:
    name = "the state" if saved is None else saved.bundle.name
    return BundleError(f"{name}: '{STATE}' is not of these labels", field=STATE, hint="use --force to start over")


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
