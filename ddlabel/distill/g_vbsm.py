"""G-VBSM: images through several trained nets and many of their statistics (Shao et al., 2024, arXiv:2311.17950)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .. import seeding
from ..augment._augment import Step, apply
from ..augment._augment import build as build_augmentation
from ..errors import UsageError
from ..nets._net import mixes_samples
from ..options import as_dict, opt
from ._averages import Averages
from ._densify import densify
from ._method import Distilled, Problem, State
from ._real import encoded
from ._recover import Preset, Recovery, View, one_crop, rolled
from ._statistics import Layer, collect_targets, graph_bytes, hooked_layers, measured

__all__ = ["METHOD", "Choice", "kept_layers", "published"]

SMALL = 64
"""Largest side in pixels with the settings of CIFAR and Tiny-ImageNet; above, those of ImageNet-1K."""
CIFAR = 32
"""Largest side at which a batch holds all images of a class."""
AUGMENTATIONS = ("crop-flip", "imagenet-crop", "none")


@dataclass(frozen=True)
class Choice:
    """What auto stands for."""

    lr_images: float
    batch: int
    per_class: int
    patch: int
    alpha: float
    drop: float
    augment: str


def published(side: int, ipc: int) -> Choice:
    """The published settings for images of `side` px, `ipc` of each class."""
    if side > SMALL:
        return Choice(0.1, 80, ipc, 16, 0.4, 0.0, "imagenet-crop")
    return Choice(0.05, 100, math.ceil(ipc / 10) if side > CIFAR else ipc, 4, 0.8, 0.4, "crop-flip")


@dataclass(frozen=True, kw_only=True)
class GeneralisedMatching(Recovery):
    """Images, batch by batch, that trained nets classify and whose statistics in every layer are those of real images.

    Step t of a batch looks through net t mod K. Loss: cross entropy, plus `statistics_weight` times the distances of
    the statistics of what goes into each batch norm and convolution from those of real images, plus `densify_weight`
    times L_DD, which spreads the images of a class. A batch norm is compared with its running mean and variance, a
    convolution with means and variances by channel and by position of a patch, collected in one pass over augmented
    training images. Distances are lengths, not squared; the first layer counts `first_weight` times. What is compared
    is a running average over the net's steps of this batch, with the gradient of the latest statistics. All images of
    a batch are cropped, mirrored and rolled alike; L_DD sees them as they are, since that is what is stored.

    Auto takes the published value for the image size: up to 64 px that of CIFAR and Tiny-ImageNet, above that of
    ImageNet-1K.

    Differs from the authors' code in: running averages begin with the first statistics of each batch of images, where
    theirs begin at 0 and go on from batch to batch (`compat`); eigenvalues of L_DD are divided by the number of pixel
    values, without which its gradient vanishes (`compat` leaves them), and are of the images, not of their augmented
    copies; images are stored as 8-bit pixels, not as JPEG.
    The paper draws the net of a step at random, its code and this take them in turn.
    """

    memory_knobs: ClassVar[tuple[str, ...]] = ("batch", "target_batch")
    steps: int = opt(4000, "T: Adam steps of each batch of images", min=1, max=100_000_000)
    lr_images: float | None = opt(
        None, "Adam's first step size on images in model-input space; auto is 0.05, or 0.1 above 64 px", above=0
    )
    batch: int | None = opt(  # type: ignore[assignment]  # only `batches` reads it
        None, "images optimised together; auto is 100, or 80 above 64 px", min=1, max=100_000
    )
    per_class: int | None = opt(
        None,
        "images of a class that stand together; auto is all, or a tenth of them from 33 to 64 px (Tiny-ImageNet)",
        min=1,
        max=100_000,
    )
    statistics_weight: float = opt(0.01, "lambda_r: weight of the distances of statistics", min=0)
    first_weight: float = opt(10.0, "weight of the first layer's distances, the others' is 1", min=0)
    densify_weight: float = opt(1.0, "lambda_dd: weight of L_DD", min=0)
    tau: float = opt(4.0, "temperature of L_DD's target", above=0)
    patch: int | None = opt(None, "side of a patch in pixels of a map; auto is 4, or 16 above 64 px", min=1, max=1024)
    alpha: float | None = opt(
        None, "share of the running average so far in the next one; auto is 0.8, or 0.4 above 64 px", min=0, below=1
    )
    drop: float | None = opt(
        None, "probability that a step leaves a convolution out; auto is 0.4, or 0 above 64 px", min=0, max=1
    )
    augment: str | None = opt(
        None,
        "what nets see of images: crop-flip, imagenet-crop or none; auto is crop-flip, or imagenet-crop above 64 px",
        choices=AUGMENTATIONS,
    )
    roll: int = opt(32, "most pixels by which a batch is shifted in a circle along each axis", min=0, max=1024)
    target_images: int | None = opt(
        None, "real images that targets are collected from, drawn at random; auto is all", min=1
    )
    target_batch: int = opt(
        64, "real images of a batch when targets, means over batches, are collected", min=1, max=100_000
    )
    compat: bool = opt(False, "the authors' running averages, from 0 and never reset, and L_DD without the division")

    def preset(self, problem: Problem) -> Preset:
        """As published for the size."""
        return Preset(self.steps, self.chosen(problem).lr_images)

    def group(self, problem: Problem) -> int:
        """The steps of a batch, unless running averages go on from batch to batch."""
        return 0 if self.compat else super().group(problem)

    def batches(self, problem: Problem) -> list[Tensor]:
        """Classes one after the other, `per_class` images of each at a time, cut into batches."""
        own = self.chosen(problem)
        rows = torch.arange(len(problem.classes) * problem.ipc).reshape(-1, problem.ipc)
        order = torch.cat([part.flatten() for part in rows.split(own.per_class, dim=1)])
        return list(order.split(own.batch))

    def augmented(self, problem: Problem, images: Tensor, step: int, generator: Generator) -> Tensor:
        """Cropped, mirrored and rolled, all images alike."""
        del step
        for each in self._draw(problem, images, generator, alike=True):
            crop = each.values.get("crop")
            images = apply(images, (each,)) if crop is None else one_crop(images, tuple(crop[0].tolist()))
        return rolled(images, 0, self.roll, generator)

    def check(self, problem: Problem) -> None:
        """Refuse nets without any layer to compare.

        Raises:
            UsageError: such a net, or ZCA-whitened images.
        """
        super().check(problem)
        for number, net in enumerate(problem.backbones):
            if not hooked_layers(net):
                raise UsageError(
                    f"net {number + 1} of {len(problem.backbones)} has neither batch norm nor convolutions, expected "
                    "layers whose statistics can be matched",
                    field="teacher",
                    hint="train a ConvNet or ResNet with batch norm: --arch convnet-d3-bn",
                )

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """No image yet, targets of every net from one pass over training images, and no running average."""
        own = self.chosen(problem)
        targets = collect_targets(problem.backbones, self._real(problem, generator), own.patch)
        state = super().prepare(problem, generator)
        for averages, found in zip(self._averages(problem), targets, strict=True):
            state |= averages.first(found, known=self.compat)
        return state

    def loss(self, problem: Problem, state: State, view: View) -> tuple[Tensor, dict[str, float], State]:
        """Cross entropy, distances of statistics and L_DD."""
        own, every = self.chosen(problem), self._averages(problem)
        changes: State = {}
        if view.step == 0 and not self.compat:
            for averages in every:
                changes |= averages.forgotten(state)
        number = view.step % len(every)
        averages = every[number]
        wanted = kept_layers(
            averages.layers, own.drop, seeding.generator(problem.seed, "distill", "drop", view.number, view.step)
        )
        logits, found = measured(problem.backbones[number], averages.layers, wanted, view.seen, own.patch)
        distances, more = averages.followed({**state, **changes}, found, own.alpha, self.first_weight)
        entropy = functional.cross_entropy(logits, view.labels)
        spread = densify(view.images, view.labels, tau=self.tau, raw=self.compat)
        total = entropy + self.statistics_weight * distances + self.densify_weight * spread
        said = {"ce": entropy, "statistics": distances, "densify": spread}
        return total, {name: float(value.detach()) for name, value in said.items()}, {**changes, **more}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The last iterate of every batch."""
        done = super().finish(problem, state)
        return dataclasses.replace(done, metrics={"backbones": float(len(problem.backbones))})

    def record(self, problem: Problem) -> dict[str, Any]:
        """The options with what auto stood for."""
        return {"options": as_dict(dataclasses.replace(self, **dataclasses.asdict(self.chosen(problem))))}

    def memory(self, problem: Problem) -> int:
        """Peak bytes: the set, seven times a batch, and half as much again as the graph of a step holds.

        When targets are collected there is no graph, which that covers for a batch as large.
        """
        own = self.chosen(problem)
        size = 4 * problem.pixels[0].numel()
        total = len(problem.classes) * problem.ipc
        wide = max(min(own.batch, total), min(self.target_batch, self._target_count(problem)) // 2)
        graph = max(graph_bytes(net, problem.pixels.shape[1:], own.patch) for net in problem.backbones)
        return self.set_bytes(problem) + wide * (7 * size + graph * 3 // 2)

    def notes(self, problem: Problem) -> tuple[str, ...]:
        """What a user should know before the first step."""
        said = []
        if len(problem.backbones) == 1:
            said.append(
                "one net only: G-VBSM is made for several different ones (the paper has 4 or 5), give more --teacher"
            )
        without = sum(not mixes_samples(net) for net in problem.backbones)
        if without:
            said.append(
                f"{without} of {len(problem.backbones)} nets have no batch norm: only convolutions are compared"
            )
        if len(problem.backbones) > self.steps:
            said.append(f"{self.steps} steps look through the first {self.steps} of {len(problem.backbones)} nets only")
        said.append(f"targets come from {self._target_count(problem)} training images first, through every net")
        return tuple(said)

    def chosen(self, problem: Problem) -> Choice:
        """The options, with the published ones for what is auto."""
        auto = published(problem.pixels.shape[-1], problem.ipc)
        own = {name: getattr(self, name) for name in dataclasses.asdict(auto)}
        return dataclasses.replace(auto, **{name: value for name, value in own.items() if value is not None})

    def _averages(self, problem: Problem) -> list[Averages]:
        return [Averages(number, hooked_layers(net)) for number, net in enumerate(problem.backbones)]

    def _draw(self, problem: Problem, images: Tensor, generator: Generator, *, alike: bool) -> tuple[Step, ...]:
        augmentation = build_augmentation(self.chosen(problem).augment, flip=problem.flip)
        height, width = images.shape[2:]
        return augmentation.draw(len(images), height, width, generator, siamese=alike)

    def _real(self, problem: Problem, generator: Generator) -> Iterator[Tensor]:
        """Batches of augmented training images in a random order, without repetition."""
        chosen = torch.randperm(len(problem.labels), generator=generator)[: self._target_count(problem)]
        for rows in chosen.split(self.target_batch):
            images = encoded(problem, rows.sort().values)
            yield apply(images, self._draw(problem, images, generator, alike=False))

    def _target_count(self, problem: Problem) -> int:
        return min(self.target_images or len(problem.labels), len(problem.labels))


def kept_layers(layers: Sequence[Layer], drop: float, generator: Generator) -> list[bool]:
    """Which layers a step compares: every batch norm, and convolutions by chance."""
    chances = torch.rand(len(layers), generator=generator, dtype=torch.float64).tolist()
    return [layer.is_norm or chance >= drop for layer, chance in zip(layers, chances, strict=True)]


METHOD = GeneralisedMatching
