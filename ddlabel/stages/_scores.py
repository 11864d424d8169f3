"""Difficulty of a training split: computed by nets trained for it, kept in bundles, read from bundles and arrays."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import seeding
from ..augment._augment import build as build_augmentation
from ..bundle import NewSection
from ..data._dataset import Dataset, Split
from ..data._stored_pixels import StoredPixels, row_digests
from ..difficulty import FORGETTING, SCORES, agreement, check_finite, forgetting
from ..errors import DivergedError
from ..events import Event, OnEvent
from ..losses._loss import Loss, Targets
from ..losses.ce import CrossEntropy
from ..nets._flops import TRAINING_STEP, forward_flops
from ..nets._net import Net, build, canonical, default_arch
from ..options import opt
from ..space import Space
from ..teachers import Checkpoint, checkpoint_section
from ..team import ALONE, Team
from ..training import TEST_BATCH, Encoder, Recipe, accuracy, encoder, minibatches, train
from ._sharing import hand_over, in_memory, take_over

__all__ = [
    "ROLE",
    "Difficulty",
    "ScoreOptions",
    "Scored",
    "ScoredNet",
    "identity",
    "score_training_split",
    "scoring_recipe",
]

ROLE = "difficulty"
SMALLEST_RESNET_PX = 16
BY_ROW = "rows:"
"""Begins the identity of a split that is made of the digests of its images."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How `--scores NAME` computes difficulty."""

    score_nets: int = opt(10, "nets whose scores are averaged, each from its own seed", min=1, max=1000)
    score_epoch: int = opt(10, "epochs that each of them is trained", min=1, max=10_000)
    score_arch: str | None = opt(
        None, "their net; auto is resnet18 with batch norm, below 16 px the ConvNet that suits the images"
    )
    score_lr: float = opt(0.1, "their learning rate at the start; a cosine takes it to 0", above=0)

    def arch(self, side: int) -> str:
        """The full name of the net for images of a side in pixels.

        Raises:
            UsageError: an unknown net.
        """
        suits = "resnet18-batch" if side >= SMALLEST_RESNET_PX else default_arch(side)
        return canonical(self.score_arch or suits)


@dataclass(frozen=True)
class Difficulty:
    """Scores of a training split."""

    name: str
    """Of the score, or `file` and `order` for arrays of one's own."""
    values: Tensor
    """(n,) float32 in the order of the training split, higher is harder."""
    parameters: Mapping[str, Any]
    """How they were made and of which images."""

    def section(self) -> NewSection:
        """They as section `scores.<name>`."""
        name = f"scores.{self.name}"
        return NewSection(name, "scores", {name: self.values}, role=ROLE, parameters=dict(self.parameters))


@dataclass(frozen=True)
class ScoredNet:
    """What one net says."""

    values: Tensor
    """(n,) float64."""
    accuracy: Mapping[str, float | None]
    """By split."""
    checkpoint: NewSection | None
    """The net, where it is kept."""


@dataclass(frozen=True)
class Scored:
    """What computing scores gives."""

    difficulty: Difficulty
    checkpoints: tuple[NewSection, ...]
    """The scoring nets as `teacher.<member>.<epoch>`, where they were to be kept."""
    flops: int


def scoring_recipe(options: ScoreOptions) -> Recipe:
    """SGD with momentum 0.9 and decay 5e-4, batch 128, cosine, crop and flip.

    Differs from the authors' code in: DeepCore's momentum is Nesterov's, this loop has none; it augments nothing and
    keeps the rate constant, which scores a net that is not yet settled.
    """
    return Recipe(
        optimizer="sgd",
        lr=options.score_lr,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="cosine",
        epochs=options.score_epoch,
        batch=128,
        augment="crop-flip",
    )


def identity(dataset: Dataset, *, like: Any = None) -> dict[str, Any]:
    """Which images scores are of: the data set, the share held out, and the training images in their order.

    Args:
        dataset: whose training split they are of.
        like: the `split` of another identity, to be compared with this one's. It is either of pixels, or, as here
            without it for images that do not fit in memory, of their digests, for which nothing is read.
    """
    split = dataset.train
    by_row = isinstance(split.pixels, StoredPixels) if like is None else str(like).startswith(BY_ROW)
    digest = hashlib.sha256(split.labels.numpy().tobytes())
    for chunk in [row_digests(split.pixels)] if by_row else (part.numpy() for part in split.pixels.split(4096)):
        digest.update(np.ascontiguousarray(chunk).data)
    return {
        "fingerprint": dataset.fingerprint,
        "validation": dataset.validation_fraction,
        "images": len(split),
        "split": BY_ROW * by_row + digest.hexdigest(),
    }


def score_training_split(
    name: str,
    options: ScoreOptions,
    dataset: Dataset,
    space: Space,
    *,
    seed: int,
    device: torch.device,
    keep_nets: bool,
    on_event: OnEvent,
    before: Sequence[ScoredNet] = (),
    on_net: Callable[[Sequence[ScoredNet]], None] | None = None,
    team: Team = ALONE,
) -> Scored:
    """Train a few nets and let them say how hard every training image is (PAD, arXiv:2408.03360, section 3.2).

    Images are scored as they are, by nets in eval mode; `forgetting` counts over the epochs of the training, on its
    batches, as its authors do. The mean over nets is of scores, in float64.

    Args:
        name: of `difficulty.SCORES`, or `forgetting`.
        options: how many nets, their architecture, their epochs.
        dataset: its training split is scored.
        space: what the nets see.
        seed: of the streams `("scores", member, ...)`.
        device: where the nets are trained.
        keep_nets: also return them as checkpoints.
        on_event: told of progress.
        before: the first of our nets, where an earlier run trained them.
        on_net: given all our nets so far, after each.
        team: processes that share the nets; of checkpoints the first one has all, the others their own.

    Raises:
        UsageError: a net that does not fit the images.
        DivergedError: a net became non-finite.

    Differs from the authors' code in: the paper says EL2N, the published orders are GraNd of DeepCore; both are
    offered, with 10 nets after 10 epochs, which the paper does not state.
    """
    arch, encode = options.arch(dataset.info.height), encoder(dataset.train.pixels, space, device)
    job = _Job(name, options, dataset, space, encode, seed, device, arch, on_event)
    nets = list(before)
    for member in team.mine(range(options.score_nets))[len(nets) :]:
        net, scores = _score_by_one(job, member)
        said = _accuracies(net, dataset, space)
        told = ", ".join(f"{key} {value:.1%}" for key, value in said.items() if value is not None)
        on_event(Event(phase="scores", message=f"scoring net {member + 1} of {options.score_nets}: {told}"))
        checkpoint = Checkpoint(f"teacher.{member}.{options.score_epoch}", member, options.score_epoch, job.arch, said)
        kept = checkpoint_section(net.cpu(), checkpoint, seed=seed) if keep_nets else None
        nets.append(ScoredNet(scores, said, kept))
        if on_net is not None:
            on_net(tuple(nets))
    nets = _everybodys(nets, team) if team.size > 1 else nets
    values = [net.values for net in nets]
    parameters = identity(dataset) | {
        "nets": options.score_nets,
        "epoch": options.score_epoch,
        "arch": job.arch,
        "lr": options.score_lr,
        "seed": seed,
        "accuracy": {key: _mean([net.accuracy[key] for net in nets]) for key in nets[0].accuracy},
        "agreement": _halves(values, dataset),
    }
    mean = torch.stack(values).mean(dim=0)
    check_finite(mean, f"scores '{name}'")
    return Scored(Difficulty(name, mean.float(), parameters), _kept(nets), _flops(job))


def _everybodys(own: Sequence[ScoredNet], team: Team) -> list[ScoredNet]:
    """The nets of all processes, in order; of checkpoints the first one has all, the others their own."""
    values = team.exchange_tensors({str(number): net.values for number, net in enumerate(own)})
    said = team.exchange_json([dict(net.accuracy) for net in own])
    kept: list[Sequence[NewSection]] = [()] * team.size
    kept[team.rank] = _kept(own)
    if team.leads:
        kept[1:] = [take_over(team, rank, in_memory) for rank in range(1, team.size)]
    else:
        hand_over(team, kept[team.rank])
    shares = []
    for each, about, sections in zip(values, said, kept, strict=True):
        rows = [each[str(number)] for number in range(len(each))]
        shares.append([ScoredNet(*net) for net in zip_longest(rows, about, sections)])
    return team.in_order(shares)


@dataclass(frozen=True)
class _Job:
    """Everything that does not change from net to net."""

    name: str
    options: ScoreOptions
    dataset: Dataset
    space: Space
    encode: Encoder
    """Of the training split: its images, which all nets share."""
    seed: int
    device: torch.device
    arch: str
    on_event: OnEvent


def _score_by_one(job: _Job, member: int) -> tuple[Net, Tensor]:
    """A trained net and its scores (n,) float64."""
    info, split = job.dataset.info, job.dataset.train
    recipe = scoring_recipe(job.options)
    net = build(
        job.arch,
        channels=info.channels,
        size=info.height,
        classes=len(info.classes),
        generator=seeding.generator(job.seed, "scores", member, "init"),
    ).to(job.device)
    loss: Loss = _Remembering(split.labels.to(job.device)) if job.name == FORGETTING else CrossEntropy()
    targets = torch.arange(len(split)) if job.name == FORGETTING else split.labels
    try:
        train(
            net,
            minibatches(
                split.pixels, targets, batch=recipe.batch, space=job.space, device=job.device, encode=job.encode
            ),
            recipe,
            loss,
            build_augmentation(recipe.augment, flip=info.flip),
            seed=job.seed,
            seed_path=("scores", member),
            on_event=lambda event: job.on_event(
                replace(event, phase=f"scoring net {member + 1} of {job.options.score_nets}")
            ),
        )
    except DivergedError as error:
        hint = f"lower --set score_lr (now {job.options.score_lr:g})"
        raise DivergedError(f"scoring net {member + 1}: {error.message}", field="score_lr", hint=hint) from error
    if isinstance(loss, _Remembering):
        return net, forgetting(torch.stack(loss.correct).cpu())
    return net, _scores(net, split, job.encode, job.name)


class _Remembering:
    """Cross-entropy that keeps whether each image was right when its batch was seen, before the step.

    The targets' classes are the images' numbers, so that a batch says which images it holds.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.correct: list[Tensor] = []
        """One row (n,) bool per epoch."""

    def at_epoch(self, epoch: int) -> Loss:
        """Open the row of an epoch."""
        del epoch
        self.correct.append(torch.zeros_like(self.labels, dtype=torch.bool))
        return self

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Mean over the batch."""
        labels = self.labels[targets.hard]
        self.correct[-1][targets.hard] = logits.detach().argmax(dim=1) == labels
        return functional.cross_entropy(logits, labels)


@torch.inference_mode()
def _scores(net: Net, split: Split, encode: Encoder, name: str) -> Tensor:
    """Batch by batch on the net's device: (n,) float64 on the CPU."""
    parts = []
    for index in torch.arange(len(split)).split(TEST_BATCH):
        labels, features = split.labels[index], net.embed(encode(index))
        logits = net.classify(features)
        parts.append(SCORES[name](logits.cpu(), labels.cpu(), features.cpu()))
    return torch.cat(parts)


def _accuracies(net: Net, dataset: Dataset, space: Space) -> dict[str, float | None]:
    splits = (("validation", dataset.validation), ("test", dataset.test))
    return {
        name: accuracy(net, split.pixels, split.labels, space=space) if len(split) else None for name, split in splits
    }


def _kept(nets: Sequence[ScoredNet]) -> tuple[NewSection, ...]:
    return tuple(net.checkpoint for net in nets if net.checkpoint is not None)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _halves(values: list[Tensor], dataset: Dataset) -> float | None:
    """How far two halves of the nets agree on the order; None for one net."""
    if len(values) < 2:
        return None
    first, second = (torch.stack(values[start::2]).mean(dim=0) for start in (0, 1))
    return agreement(first, second, dataset.train.labels, len(dataset.info.classes))


def _flops(job: _Job) -> int:
    """Of training and scoring, by the rule of `forward_flops`."""
    info = job.dataset.info
    forward = forward_flops(job.arch, channels=info.channels, size=info.height, classes=len(info.classes))
    passes = TRAINING_STEP * job.options.score_epoch + (job.name != FORGETTING)
    return forward * passes * len(job.dataset.train) * job.options.score_nets
