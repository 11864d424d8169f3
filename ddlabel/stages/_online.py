"""Evaluation with a live teacher: RDED's post-training, where labels are no part of what is stored.

A student then learns from a label of its own for every augmented and mixed image, more labels than any bundle holds.
Such rows are never compliant: they say so, they pay for the teacher's bytes and its passes, and the same images with
the labels that the bundle does store stand beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from .. import _plugins
from ..bundle import Bundle
from ..config import EvaluateConfig
from ..data._dataset import Dataset
from ..distilled import read_stored
from ..errors import UsageError
from ..events import OnEvent
from ..labels._mix import MIXES, draw_mix, mixed
from ..labels._privileged import choose_privileged
from ..losses._loss import Targets
from ..nets._flops import forward_flops
from ..nets._net import Net
from ..options import build, opt
from ..preprocess import check_agreement
from ..protocols._protocol import is_online
from ..space import Space
from ..teachers import Checkpoint, Teacher, combine
from ._distill_teachers import chosen_epoch
from ._self_test import check_backbones
from ._stage import Clock

__all__ = ["ONLINE", "LiveTeacher", "OnlineOptions", "open_teacher", "resolve_online"]

ONLINE = "online"
"""Of `--labels`, and of rows: a live teacher answers every batch."""
PROTOCOL = "kd"
"""The protocol of a live teacher where none is asked for."""
TEMPERATURE = {"cutmix": 20.0, "mixup": 4.0, "none": 20.0}
"""T of loss `kl` by what is mixed, in RDED."""


@dataclass(frozen=True, kw_only=True)
class OnlineOptions:
    """How a live teacher is asked."""

    mix: str = opt(
        "cutmix",
        "what is mixed into the images of a batch before the teacher is asked: cutmix, mixup or none; kl takes T = 20, "
        "with mixup 4",
        choices=MIXES,
    )
    checkpoint: str = opt(
        "last",
        "which kept epoch of the live teacher answers: a number, last, ipc (the fewer images, the earlier) or rded "
        "(the same by DCPI's rule)",
    )
    self_test: float = opt(
        3.0,
        "least accuracy of the live teacher, as a multiple of chance, on a slice of held-out images; 0 tests nothing",
        min=0,
        max=1000,
    )


@dataclass(frozen=True)
class LiveTeacher:
    """Nets that answer every batch of a student; several answer with the mean of their logits."""

    bundles: tuple[Bundle, ...]
    """That each checkpoint is of."""
    checkpoints: tuple[Checkpoint, ...]
    """Of all teachers, the chosen epoch of every member."""
    nets: tuple[Net, ...]
    """Of these, in eval mode, frozen, on the device."""
    options: OnlineOptions

    def __call__(self, images: Tensor, targets: Targets, draws: Generator) -> tuple[Tensor, Targets]:
        """Mix an augmented batch (b, c, h, w) and say what the teachers say of it; draws come from `draws` alone."""
        if self.options.mix != "none":
            count, _channels, height, width = images.shape
            images = mixed(images, draw_mix(self.options.mix, count, height, width, draws))
        with torch.no_grad():
            soft = combine([net(images) for net in self.nets], "mean")
        return images, dataclasses.replace(targets, soft=soft, domain="logit")

    @property
    def stored_bytes(self) -> int:
        """Of the checkpoints that answer, as they are stored."""
        return sum(map(_stored_bytes, self.bundles, self.checkpoints))

    def flops(self, images: int, *, channels: int, size: int, classes: int) -> int:
        """Of asking all nets about so many images."""
        shape = {"channels": channels, "size": size, "classes": classes}
        return images * sum(forward_flops(checkpoint.arch, **shape) for checkpoint in self.checkpoints)

    def loss_options(self, loss: str) -> dict[str, Any]:
        """Published options of a loss under this teacher."""
        return {"temperature": TEMPERATURE[self.options.mix]} if loss == "kl" else {}

    @staticmethod
    def check_losses(names: Sequence[str]) -> None:
        """Refuse losses that do not look at the answers, or choose the views of stored labels.

        Raises:
            UsageError: naming the first.
        """
        for name in names:
            loss = _plugins.load("losses", name, "LOSS")
            if "soft" not in loss.needs:
                raise UsageError(
                    f"loss '{name}' does not look at what a live teacher says", field="loss", hint="use --loss kl"
                )
            if hasattr(loss, "estimator"):
                raise UsageError(
                    f"loss '{name}' is of views that are stored, a live teacher answers for whole images",
                    field="loss",
                    hint="use --loss kl",
                )

    def check(self, space: Space, dataset: Dataset, on_event: OnEvent) -> None:
        """Refuse nets that answer held-out images at chance; see `check_backbones`."""
        factor = self.options.self_test
        check_backbones(self.checkpoints, self.nets, dataset, space, factor, on_event, option="--set self_test")

    def record(self) -> dict[str, Any]:
        """What an evaluation says of the teacher."""
        return {
            "mix": self.options.mix,
            "ensemble": "mean",
            "checkpoint": self.options.checkpoint,
            "checkpoints": [
                {
                    "teacher": bundle.content,
                    "section": checkpoint.section,
                    "epoch": checkpoint.epoch,
                    "bytes": _stored_bytes(bundle, checkpoint),
                }
                for bundle, checkpoint in zip(self.bundles, self.checkpoints, strict=True)
            ],
        }


def resolve_online(config: EvaluateConfig, bundle: Bundle, teachers: Sequence[Bundle]) -> EvaluateConfig:
    """The configuration with `labels` and `protocol` said, where they mean a live teacher; else as it is.

    That is asked for by `--labels online`, by a protocol that wants one (`kd`), or by `--teacher` where nothing else
    that was typed, and no label in the bundle, has a use for it.

    Raises:
        UsageError: a live teacher without a teacher, or beside stored labels; baselines that it cannot have.
    """
    kinds = () if config.labels is None else tuple(part.strip() for part in config.labels.split("+"))
    wants = config.protocol is not None and is_online(_plugins.load("protocols", config.protocol, "PROTOCOL"))
    if not (ONLINE in kinds or wants or (teachers and _says_nothing_else(config, bundle))):
        return config
    problems = []
    if kinds and kinds != (ONLINE,):
        problems.append(
            f"protocol '{config.protocol}' asks a live teacher, --labels is '{config.labels}'; use --protocol rded for "
            "stored labels"
            if ONLINE not in kinds
            else f"--labels is '{config.labels}', expected 'online' alone: a live teacher answers for mixed images"
        )
    if not teachers:
        asks = f"--protocol {config.protocol}" if wants else "--labels online"
        problems.append(f"{asks} asks a live teacher for every batch, expected --teacher FILE")
    given = {
        "equal-bytes": config.equal_bytes,
        "incremental": bool(config.incremental),
        "diagnose": config.diagnose is not None,
    }
    problems += [f"--{name} is of stored labels, a live teacher has none" for name, said in given.items() if said]
    if problems:
        raise UsageError.collect(problems)
    return dataclasses.replace(config, labels=ONLINE, protocol=config.protocol or PROTOCOL)


def open_teacher(teachers: Sequence[Bundle], bundle: Bundle, settings: Mapping[str, Any], clock: Clock) -> LiveTeacher:
    """The checkpoints of teachers that may answer for the images of a bundle, as `checkpoint` chooses them.

    Raises:
        UsageError: the same teacher twice; no such checkpoint.
        BundleError: no teacher; one of other classes, image shape or space.
    """
    if len({teacher.content for teacher in teachers}) < len(teachers):
        raise UsageError("a teacher is given twice, its say would count double", field="teacher")
    own = {field.name for field in dataclasses.fields(OnlineOptions)}
    options = build(OnlineOptions, {name: value for name, value in settings.items() if name in own})
    ipc = read_stored(bundle).ipc
    chosen: list[tuple[Bundle, Checkpoint, Net]] = []
    for given in teachers:
        teacher = Teacher(given)
        check_agreement(given, bundle)
        for checkpoint in teacher.select(chosen_epoch(teacher, options.checkpoint, ipc)):
            chosen.append((given, checkpoint, teacher.net(checkpoint, clock.device)))
    bundles, checkpoints, nets = zip(*chosen, strict=True)
    return LiveTeacher(bundles, checkpoints, nets, options)


def _says_nothing_else(config: EvaluateConfig, bundle: Bundle) -> bool:
    """Whether `--teacher` stands alone: nothing typed says what to train on, or needs the teacher for itself."""
    typed = (config.labels, config.protocol, config.diagnose)
    wanted = config.baselines or config.equal_bytes or bool(config.incremental)
    return all(option is None for option in typed) and not wanted and choose_privileged(bundle) is None


def _stored_bytes(bundle: Bundle, checkpoint: Checkpoint) -> int:
    return sum(int(record["bytes"]) for record in bundle.section(checkpoint.section).tensors.values())
