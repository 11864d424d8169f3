"""What methods that recover images from trained nets share: batches of images, Adam, the box of possible pixels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..errors import UsageError
from ..options import opt
from ._method import Distilled, Problem, State
from ._real import class_labels

__all__ = ["Preset", "Recovery", "View", "one_crop", "rolled"]

BETAS = (0.5, 0.9)
EPSILON = 1e-8


@dataclass(frozen=True)
class Preset:
    """What `auto` stands for."""

    steps: int = 1000
    lr_images: float = 0.25


@dataclass(frozen=True)
class View:
    """What a step sees of its batch."""

    images: Tensor
    """(b, c, h, w) float32 in model-input space, what is optimised."""
    seen: Tensor
    """The same, augmented."""
    labels: Tensor
    """(b,) int64 on the device."""
    rows: Tensor
    """(b,) int64 numbers of the images in the distilled set."""
    number: int
    """Of the batch."""
    step: int
    """Of this batch, from 0."""


@dataclass(frozen=True, kw_only=True)
class Recovery(ABC):
    """Images that start as noise, batch by batch, `steps` of Adam each; the last iterate is kept.

    Adam has betas 0.5 and 0.9; its step size follows half a cosine from `lr_images` to 0. After each step every channel
    is clamped to the box of possible pixels.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"backbones"})
    memory_knobs: ClassVar[tuple[str, ...]] = ("batch",)
    steps: int | None = opt(
        None, "T: Adam steps of each batch of images; auto is as published for the size", min=1, max=100_000_000
    )
    lr_images: float | None = opt(
        None, "Adam's first step size on images in model-input space; auto is as published for the size", above=0
    )
    batch: int = opt(100, "images optimised together", min=1, max=100_000)

    @abstractmethod
    def batches(self, problem: Problem) -> list[Tensor]:
        """Numbers (b,) of the images of each batch; every image of the set is in one of them."""

    @abstractmethod
    def augmented(self, problem: Problem, images: Tensor, step: int, generator: Generator) -> Tensor:
        """What the nets see of a batch (b, c, h, w), differentiable."""

    @abstractmethod
    def loss(self, problem: Problem, state: State, view: View) -> tuple[Tensor, dict[str, float], State]:
        """The scalar to descend, metrics, and tensors of the state to replace."""

    def preset(self, problem: Problem) -> Preset:
        """What `auto` stands for, for images of this size."""
        del problem
        return Preset()

    def total_steps(self, problem: Problem) -> int:
        """Steps of all batches, one after the other."""
        return self.length(problem) * len(self.batches(problem))

    def length(self, problem: Problem) -> int:
        """T: steps of a batch."""
        return self.preset(problem).steps if self.steps is None else self.steps

    def group(self, problem: Problem) -> int:
        """The steps of a batch need nothing of another."""
        return self.length(problem)

    def check(self, problem: Problem) -> None:
        """Refuse whitened images: their box of possible pixels is none.

        Raises:
            UsageError: the space is ZCA.
        """
        if problem.space.zca is not None:
            raise UsageError(
                "images are recovered in normalised pixels, the teacher was trained on ZCA-whitened ones",
                field="space",
                hint="train a teacher with --space normalised",
            )

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """No image yet: every finished batch adds its pixels (b, c, h, w) uint8 as `images.<number>`."""
        del problem, generator
        return {}

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """One step of Adam on one batch, which begins as normal noise."""
        number, step = divmod(index, self.length(problem))
        rows = self.batches(problem)[number]
        if step == 0:
            noise = torch.randn((len(rows), *problem.pixels.shape[1:]), generator=generator).to(problem.device)
            state = {
                **state,
                **{name: torch.zeros_like(noise) for name in ("gradient_mean", "gradient_square")},
                "batch": noise,
            }
        images = state["batch"].detach().requires_grad_(True)
        labels = class_labels(problem)[rows].to(problem.device)
        view = View(images, self.augmented(problem, images, step, generator), labels, rows, number, step)
        loss, metrics, more = self.loss(problem, state, view)
        (gradient,) = torch.autograd.grad(loss, images)
        after = {**state, **more, **self._moved(problem, state, gradient, step)}
        if step + 1 == self.length(problem):
            after[f"images.{number}"] = problem.space.to_pixels(after["batch"])
        return after, {"loss": float(loss.detach()), **metrics}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The last iterate of every batch, in pixels of 8 bits: what a set takes in memory while it grows."""
        labels = class_labels(problem)
        pixels = torch.empty((len(labels), *problem.pixels.shape[1:]), dtype=torch.uint8)
        for number, rows in enumerate(self.batches(problem)):
            pixels[rows] = state[f"images.{number}"].cpu()
        return Distilled(labels=labels, pixels=pixels)

    def set_bytes(self, problem: Problem) -> int:
        """Bytes of the finished images, and of the set they are put together to."""
        return 2 * len(problem.classes) * problem.ipc * problem.pixels[:1].numel()

    def rate(self, problem: Problem, step: int) -> float:
        """Adam's step size: lr_images at 0, half of it at T/2, 0 at T."""
        first = self.preset(problem).lr_images if self.lr_images is None else self.lr_images
        return 0.5 * first * (1 + math.cos(math.pi * step / self.length(problem)))

    def _moved(self, problem: Problem, state: State, gradient: Tensor, step: int) -> State:
        """Images and moments after a step of Adam, inside the box."""
        slow, fast = BETAS
        first = slow * state["gradient_mean"] + (1 - slow) * gradient
        second = fast * state["gradient_square"] + (1 - fast) * gradient.square()
        scale = (second / (1 - fast ** (step + 1))).sqrt() + EPSILON
        batch = state["batch"] - self.rate(problem, step) * (first / (1 - slow ** (step + 1))) / scale
        shape = (1, problem.pixels.shape[1], 1, 1)
        low, high = (
            problem.space.encode(torch.full(shape, level, dtype=torch.uint8)).to(batch.device) for level in (0, 255)
        )
        return {
            "batch": torch.minimum(torch.maximum(batch, low), high),
            "gradient_mean": first,
            "gradient_square": second,
        }


def rolled(images: Tensor, low: int, high: int, generator: Generator) -> Tensor:
    """A batch shifted in a circle, all images alike, by whole pixels from [low, high] along both axes."""
    down, right = torch.randint(low, high + 1, (2,), generator=generator).tolist()
    return images.roll((down, right), dims=(2, 3)) if down or right else images


def one_crop(images: Tensor, crop: tuple[int, int, int, int], *, mirrored: bool = False) -> Tensor:
    """The same crop of all images (b, c, h, w), resized to their size, and mirrored; differentiable.

    The same pixels as `crops.resized_crops` to rounding. One matrix product along each axis: its backward pass is the
    same whatever device and order, and a tenth of the time of one crop per image.

    Args:
        images: square or not.
        crop: top, left, height and width in pixels, inside the image.
        mirrored: left and right.
    """
    top, left, tall, wide = crop
    height, width = images.shape[2:]
    rows, columns = _resize(tall, height, images), _resize(wide, width, images)
    columns = columns.flip(1) if mirrored else columns
    return rows.T @ images[:, :, top : top + tall, left : left + wide] @ columns


def _resize(length: int, size: int, like: Tensor) -> Tensor:
    """(length, size): what each of `length` pixels gives to each of `size`, bilinear, corners not aligned."""
    unit = torch.eye(length, dtype=like.dtype, device=like.device)[None]
    return functional.interpolate(unit, size=size, mode="linear", align_corners=False)[0]
