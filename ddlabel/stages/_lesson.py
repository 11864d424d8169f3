"""What learning labels of a bundle's images works on: what was asked for, and the lesson made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bundle import Bundle
from ..codecs._codec import Codec
from ..config import RefineConfig
from ..data._dataset import Dataset
from ..distilled import DistilledSet
from ..errors import BundleError
from ..labels._labels import read_labels
from ..losses._loss import Targets, soft_log_targets
from ..nets._net import Net, canonical, default_arch
from ..options import as_dict
from ..preprocess import check_agreement, data_of
from ..refine._learner import Lesson
from ..teachers import Teacher
from ..trajectories import Trajectories
from ._stage import Clock, redact

__all__ = ["LR", "Work", "check_data", "make_lesson"]

SOFT = "labels.soft"
LR = "student.lr"
"""Section of the step size that was learned with the images."""


@dataclass(frozen=True)
class Work:
    """What was asked for, checked as far as options go."""

    config: RefineConfig
    bundle: Bundle
    teachers: Sequence[Bundle]
    kind: str
    method: Any
    codec_name: str
    codec: Codec

    def effective(self, lesson: Lesson) -> dict[str, Any]:
        """Options as they were followed, without paths."""
        return as_dict(self.config) | {
            "labels": self.kind,
            "matcher": self.method.matcher,
            "data": redact(self.config.data or ""),
            "arch": lesson.arch,
            "codec": self.codec_name,
            "options": as_dict(self.method) | as_dict(self.codec),
        }


def check_data(work: Work, dataset: Dataset) -> None:
    """The real images are those that the set was distilled from, and that teachers saw; raises BundleError."""
    for made in (work.bundle, *work.teachers):
        theirs = data_of(made)["fingerprint"]
        if theirs != dataset.fingerprint:
            said = f"training images {theirs[:12]}" if theirs else "unknown training images"
            raise BundleError(
                f"{made.name} was made from {said}, --data has {dataset.fingerprint[:12]}",
                field="data",
                hint="use the data it was made from; foreign sets know theirs when they are imported with --data",
            )
    for teacher in work.teachers:
        check_agreement(teacher, work.bundle)


def make_lesson(work: Work, distilled: DistilledSet, ipc: int, dataset: Dataset, clock: Clock) -> Lesson:
    """The real data and the images as the learner sees them.

    Args:
        work: what was asked for.
        distilled, ipc: the images, class-major with `ipc` of each class.
        dataset: that the images were distilled from.
        clock: whose device is used.

    Raises:
        UsageError: teachers without the experts, or the kept epoch, that are needed.
        BundleError: teachers of different nets, or of another net than asked for.
    """
    method, bundle = work.method, work.bundle
    trajectories = Trajectories(work.teachers) if "trajectories" in method.needs else None
    arch, nets = _first_nets(work, clock.device) if method.init == "teacher" else (None, ())
    arch = (trajectories.arch if trajectories else None) or arch or default_arch(dataset.info.height)
    if work.config.arch is not None:
        wanted = canonical(work.config.arch)
        if work.teachers and wanted != canonical(arch):
            raise BundleError(
                f"{work.teachers[0].name} is of net '{canonical(arch)}', --arch is '{wanted}'",
                field="arch",
                hint="drop --arch, or train teachers of that net",
            )
        arch = wanted
    return Lesson(
        pixels=dataset.train.pixels,
        labels=dataset.train.labels,
        classes=distilled.classes,
        space=distilled.space,
        ipc=ipc,
        arch=canonical(arch),
        flip=dataset.info.flip,
        teacher=None,
        device=clock.device,
        seed=work.config.seed,
        trajectories=trajectories,
        images=distilled.images,
        kind=work.kind,
        logits=_learned_logits(bundle),
        lr=float(bundle.tensor(LR)) if bundle.has(LR) else None,
        soft=_soft(bundle, distilled) if method.soft and bundle.has(SOFT) else None,
        nets=nets,
    )


def _first_nets(work: Work, device: torch.device) -> tuple[str, tuple[Net, ...]]:
    """The teachers' nets of the epoch that first labels are of, and what nets they are.

    All of them, of which the learner takes as many as there are labels of each image and refuses others; of experts,
    which are there to be matched, the first ones.
    """
    which = work.method.init_checkpoint
    found = [(teacher, kept) for teacher in map(Teacher, work.teachers) for kept in teacher.select(which)]
    kinds = sorted({checkpoint.arch for _teacher, checkpoint in found})
    if len(kinds) > 1:
        raise BundleError(f"the teachers are nets of different kinds: {', '.join(kinds)}", field="teacher")
    if "trajectories" in work.method.needs:
        found = found[: work.method.k]
    return kinds[0], tuple(teacher.net(checkpoint, device) for teacher, checkpoint in found)


def _learned_logits(bundle: Bundle) -> Tensor | None:
    """Soft labels (n, k) that were learned with the images, None where there are none of these images."""
    if not bundle.has(SOFT) or bundle.section(SOFT).stale or not bundle.section(SOFT).parameters.get("learned"):
        return None
    labels = read_labels(bundle, "soft")
    return labels.values[:, 0] if labels.domain == "logit" else None


def _soft(bundle: Bundle, distilled: DistilledSet) -> Tensor:
    """Log-probabilities (n, k) of the soft labels, whatever their domain."""
    labels = read_labels(bundle, "soft")
    return soft_log_targets(Targets(distilled.labels, labels.values[:, 0], labels.domain, None), 1.0)
