"""What `ddlabel.load` gives: the images, labels, loss, recipe and augmentation of a distilled bundle.

What an own training loop gets here is what the students of `ddlabel evaluate` get: the same images in model-input
space, the same labels and views, the same loss, from the same functions and the same random streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from . import seeding
from .augment._augment import apply
from .augment._augment import build as build_augmentation
from .bundle import Bundle
from .data._stored_pixels import Pixels, StoredPixels
from .distilled import DistilledSet
from .epoch_dataset import EpochDataset
from .errors import UsageError
from .events import ignore
from .labels._labels import LabelSet
from .labels._privileged import PrivilegedSet, read_privileged
from .losses._loss import EpochLoss, Targets, log_probabilities, loss_of_epoch
from .preprocess import data_of
from .schedules import loss_factor, rate
from .space import Space
from .stages._recipe import learned_lr
from .stages._stage import load_like
from .students import EpochSampler, StudentData, make_sampler
from .training import Recipe, accuracy

__all__ = ["LoadedBundle"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LoadedBundle:
    """A distilled bundle, ready to train on."""

    bundle: Bundle
    """The file."""
    kind: str
    """Of the class labels that are trained on: hard, soft, dense or fkd."""
    distilled: DistilledSet
    labels: LabelSet | None
    """The labels with their views and where they are from; None for hard ones."""
    recipe: Recipe
    """How `evaluate` trains: `lr` (the learned step size where there is one), `epochs`, `batch`, `augment` and more."""
    loss_name: str
    objective: Any
    """The loss of logits and `Targets`; `loss` calls it."""
    protocol: str
    seed: int
    path: tuple[str | int, ...]
    """Names the random streams beside the seed."""

    @property
    def images(self) -> Tensor:
        """(n, c, h, w) float32 in model-input space, class by class."""
        return self.distilled.images

    @property
    def hard(self) -> Tensor:
        """Classes (n,) int64."""
        return self.distilled.labels

    @property
    def soft(self) -> Tensor | None:
        """Decoded label values (n, v, k) float32 of v views; None for hard labels. `domain` says what they are."""
        return None if self.labels is None else self.labels.values

    @property
    def domain(self) -> str | None:
        """What the values are: logit, prob, logprob, or unit (an L2-normalised refined label)."""
        return None if self.labels is None else self.labels.domain

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the outputs."""
        return self.distilled.classes

    @property
    def space(self) -> Space:
        """How pixels become images: mean and std per channel, or ZCA whitening."""
        return self.distilled.space

    @property
    def learned_lr(self) -> float | None:
        """The step size that was learned with the images; None without one."""
        return learned_lr(self.bundle)

    def dataset(self, epoch: int = 0) -> EpochDataset:
        """What a student sees in an epoch, from 0.

        Hard and soft labels: each image once. Dense labels: as many samples as images, from all images and windows,
        none twice before each was seen once; every window of every image where the estimator is `full`. fkd labels:
        view `epoch` (mod v) of each image.
        """
        _check_epoch(epoch)
        draws = seeding.generator(self.seed, *self.path, "epoch", epoch)
        return EpochDataset(self._sampler.samples, *self._sampler.visits(epoch, draws))

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor], *, epoch: int | None = None) -> Tensor:
        """The scalar to minimise.

        Args:
            logits: (b, k), on any device.
            targets: of a batch of `dataset`, on any device; what a loader made of them.
            epoch: from 0; only for a loss that changes with it (`dkd`), and for a recipe that makes early losses
                smaller.

        Raises:
            UsageError: another number of outputs than classes; no epoch where one is needed, or none that is one.
        """
        _check_tensor("logits", logits)
        if logits.ndim != 2 or logits.shape[1] != len(self.classes):
            raise UsageError(
                f"logits have shape {tuple(logits.shape)}, expected (batch, {len(self.classes)}), one output per class",
                field="logits",
            )
        if epoch is not None:
            _check_epoch(epoch)
        elif isinstance(self.objective, EpochLoss) or self.recipe.loss_decay:
            raise UsageError(f"loss '{self.loss_name}' changes with the epoch", field="epoch", hint="pass epoch=")
        made = self._targets(targets).to(logits.device)
        value: Tensor = loss_of_epoch(self.objective, epoch or 0)(logits, made)
        return loss_factor(self.recipe, epoch or 0) * value

    def probabilities(self, targets: Mapping[str, Tensor], *, temperature: float = 1.0) -> Tensor:
        """The soft labels of a batch as probabilities (b, k), for an own loss.

        Raises:
            UsageError: hard labels; a temperature that is no positive number.
        """
        if type(temperature) not in {int, float} or not 0 < temperature < math.inf:
            raise UsageError(f"temperature is {temperature!r}, expected a number above 0", field="temperature")
        return log_probabilities(self._targets(targets), temperature).exp()

    def augmentation(self, epoch: int = 0) -> Callable[[Tensor], Tensor]:
        """The recipe's augmentation of batches (b, c, h, w), with the draws of an epoch; labels of views have none."""
        _check_epoch(epoch)
        augment = build_augmentation(self.recipe.augment, flip=bool(data_of(self.bundle)["flip"]))
        draws = seeding.generator(self.seed, *self.path, "augment", epoch)

        def augmented(images: Tensor) -> Tensor:
            return apply(images, augment.draw(len(images), images.shape[2], images.shape[3], draws))

        return augmented

    def lr(self, epoch: int = 0) -> float:
        """Step size of the recipe in an epoch, from 0, by its schedule."""
        _check_epoch(epoch)
        return self.recipe.lr * rate(self.recipe, epoch)

    def encode(self, pixels: Tensor) -> Tensor:
        """Own images as nets see them, float32: (n, c, h, w) or one (c, h, w), uint8 pixels.

        Raises:
            UsageError: other types or shapes than the bundle's images have.
        """
        batch = self._batch(pixels, torch.uint8, "uint8 pixels in 0 to 255")
        images = self.space.on(pixels.device).encode(batch)
        return images if pixels.ndim == 4 else images[0]

    def to_pixels(self, images: Tensor) -> Tensor:
        """The other way: float32 images, as uint8 pixels to look at; values outside 0 to 255 are clamped.

        Raises:
            UsageError: other types or shapes than the bundle's images have; values that are not finite.
        """
        batch = self._batch(images, torch.float32, "float32 images as `encode` gives them")
        wrong = int((~batch.isfinite()).sum())
        if wrong:
            raise UsageError(f"images have {wrong} values that are not finite, expected none", field="images")
        pixels = self.space.on(images.device).to_pixels(batch)
        return pixels if images.ndim == 4 else pixels[0]

    def test_data(self, data: str) -> tuple[Pixels, Tensor]:
        """The test split of a data set, at the size of the images: uint8 pixels (n, c, h, w) and classes (n,) int64.

        Args:
            data: as `--data` takes it: `digits`, `cifar10:DIR`, `folder:DIR`, `npz:FILE`.

        Raises:
            BundleError: its classes or image shape are others than the bundle's.
            DataError: missing or unusable files.
        """
        test = load_like(self.bundle, data, ignore).test
        return test.pixels, test.labels

    def accuracy(self, net: nn.Module, pixels: Pixels, labels: Tensor) -> float:
        """Top-1 accuracy in [0, 1] of a net in eval mode on uint8 pixels (n, c, h, w) of classes (n,).

        Raises:
            UsageError: a net without parameters, which say where it is; pixels of another type or shape.
        """
        if not isinstance(net, nn.Module):
            raise UsageError(f"net is {_kind(net)}, expected a torch.nn.Module", field="net")
        if next(net.parameters(), None) is None:
            raise UsageError("net has no parameters, expected one that was trained", field="net")
        if not isinstance(pixels, Tensor | StoredPixels):
            raise UsageError(f"pixels are {_kind(pixels)}, expected a torch.Tensor", field="pixels")
        _check_tensor("labels", labels)
        if isinstance(pixels, Tensor):
            pixels = self._batch(pixels, torch.uint8, "uint8 pixels in 0 to 255")
        if labels.shape != (len(pixels),) or not len(pixels):
            raise UsageError(
                f"labels have shape {tuple(labels.shape)}, expected ({len(pixels)},), the class of each of 1 or more "
                "images",
                field="labels",
            )
        return accuracy(net, pixels, labels, space=self.space)

    def features(self, kind: str = "feature") -> PrivilegedSet:
        """Feature or attention labels: `values` (n, K, c, h, w) float32 by image, and the `form` (net and layer).

        Raises:
            BundleError: there are none, or they are stale.
        """
        return read_privileged(self.bundle, kind)

    @cached_property
    def _sampler(self) -> EpochSampler:
        data = StudentData(self.distilled, self.labels)
        estimator = getattr(self.objective, "estimator", "views")
        seed = seeding.stream_seed(self.seed, *self.path)
        return make_sampler(data, batch=self.recipe.batch, estimator=estimator, seed=seed)

    def _targets(self, targets: Mapping[str, Tensor]) -> Targets:
        if not isinstance(targets, Mapping) or "hard" not in targets:
            raise UsageError(
                f"targets are {_kind(targets)}, expected the dict of a batch of .dataset(), with 'hard' and what goes "
                "with it",
                field="targets",
            )
        return Targets(targets["hard"], targets.get("soft"), self.domain, targets.get("local"))

    def _batch(self, images: Tensor, dtype: torch.dtype, expected: str) -> Tensor:
        _check_tensor("images", images)
        shape = tuple(self.images.shape[1:])
        if images.dtype != dtype or tuple(images.shape[-3:]) != shape or images.ndim not in {3, 4}:
            raise UsageError(
                f"images are {images.dtype} of shape {tuple(images.shape)}, expected {expected}, of shape "
                f"{('n', *shape)} or {shape}".replace("'", ""),
                field="images",
            )
        return images if images.ndim == 4 else images[None]

    def __repr__(self) -> str:
        """One line."""
        views = "" if self.labels is None else f", {self.labels.values.shape[1]} per image"
        shape = " x ".join(map(str, self.images.shape))
        return (
            f"LoadedBundle({self.bundle.name}: images {shape}, {len(self.classes)} classes, {self.kind} labels{views})"
        )


def _check_epoch(epoch: int) -> None:
    if type(epoch) is not int or epoch < 0:
        raise UsageError(f"epoch is {epoch!r}, expected a whole number from 0", field="epoch")


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise UsageError(f"{name} are {_kind(value)}, expected a torch.Tensor", field=name)


def _kind(value: Any) -> str:
    return f"of type '{type(value).__name__}'"
