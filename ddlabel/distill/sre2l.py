"""SRe2L: images recovered from a net's batch norm statistics (Yin, Xing and Shen, 2023, arXiv:2306.13092)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..augment._augment import draw_crops
from ..errors import UsageError
from ..nets._net import Net, default_arch
from ..options import opt
from ._memory import logit_bytes
from ._method import Distilled, Problem, State
from ._norms import NormStatistics, class_statistics, norm_layers, refitted
from ._recover import Preset, Recovery, View, one_crop, rolled

__all__ = ["METHOD", "SizePreset", "preset_of"]

LEAST_AREA = 0.08
"""Of a crop, as a share of the image."""
PUBLISHED, AUTO = "published", "auto"
REFERENCE_RATIO = 100.0
"""R_bn / CE on normal noise that `bn_weight=auto` takes a ResNet-18 to have; at 100 the published 0.01 lets both weigh
alike. A convention of ours: the authors' nets have hundreds over a CE of several (as users report of ImageNet's
ResNet-18), small ones here 76 untrained at 16 px and, well trained at 32 px, ConvNets of three or four blocks 23 to 26.
"""
CURRICULUM_ENDS = {"cosine": 1.0, "linear": 1.0, "step": 0.5}
SMALL_PX, LARGE_PX = 48, 128
"""Sides in pixels from which the settings of Tiny-ImageNet and of ImageNet hold."""


@dataclass(frozen=True)
class SizePreset(Preset):
    """Published settings for images of one size."""

    bn_weight: float = 0.01
    crop: bool = False
    roll_min: int = 0
    roll_max: int = 4


def preset_of(side: int) -> SizePreset:
    """The settings of CIFAR-100 below 48 px, of Tiny-ImageNet below 128 px, else of ImageNet-1K.

    Rolls are in proportion to the side: [0, 4] at 32 px, [-4, 4] at 64 px, [0, 32] at 224 px.
    """
    if side < SMALL_PX:
        return SizePreset(1000, 0.25, 0.01, crop=False, roll_min=0, roll_max=side // 8)
    if side < LARGE_PX:
        return SizePreset(4000, 0.1, 1.0, crop=True, roll_min=-(side // 16), roll_max=side // 16)
    return SizePreset(4000, 0.25, 0.01, crop=True, roll_min=0, roll_max=side // 7)


@dataclass(frozen=True, kw_only=True)
class SqueezeRecover(Recovery):
    """Noise becomes images that a trained net knows as their classes and that give its batch norms real statistics.

    L(x) = CE(f(A(x)), y) + bn_weight R_bn(A(x)) + tv_weight TV(A(x)) + l2_weight mean |A(x_i)|. R_bn is the sum over
    batch norms of the distances of mean and biased variance of their inputs from the running ones, not squared. A
    crops all images of a batch alike, mirrors where that is fair, and shifts in a circle. What is left to `auto`
    follows the size of the images.

    `batching=class` with per-class statistics is LPLD's (arXiv:2410.15919); `curriculum` is CDA's ("Dataset
    Distillation in Large Data Era"); `mask_shallow` and filtered training images are PAD's (arXiv:2408.03360).

    Differs from the authors' code in: images are stored as rounded uint8 where theirs are JPEG; moments of a class are
    exact ones of its images in eval mode, where LPLD averages those of training batches; resized crops are not
    antialiased.
    """

    bn_weight: str = opt(
        PUBLISHED,
        "weight of R_bn, a number; published is 0.01, or 1 from 48 to 127 px; auto scales that so that R_bn weighs on "
        "noise, beside CE, alike in every net, for nets with many more batch norms than ResNet-18",
    )
    first_bn: float = opt(10.0, "weight of the first batch norm in R_bn; the others have 1", min=0)
    tv_weight: float = opt(0.0, "weight of the total variation", min=0)
    l2_weight: float = opt(0.0, "weight of the mean norm of an image", min=0)
    crop: bool | None = opt(None, "crop, resize and mirror in every step; auto does from 48 px")
    roll_min: int | None = opt(None, "least shift in pixels; auto is 0, and -4 at 64 px", min=-1024, max=1024)
    roll_max: int | None = opt(
        None, "largest shift in pixels; auto is 4 at 32 and 64 px, 32 at 224", min=-1024, max=1024
    )
    batching: str = opt(
        "index",
        "images of a batch: one of each class (index), or all of one class, with statistics of that class (class)",
        choices=("index", "class"),
    )
    curriculum: str = opt(
        "none",
        "least area of a crop: 0.08, or falling to that from the whole image (CDA)",
        choices=("none", "cosine", "linear", "step"),
    )
    curriculum_end: float | None = opt(
        None, "share of the steps after which crops are of 0.08 and more; auto is 1, and 0.5 for step", above=0, max=1
    )
    mask_shallow: float = opt(0.0, "share of the batch norms, shallowest first, left out of R_bn (PAD)", min=0, below=1)
    bn_stats: str = opt(
        "auto",
        "statistics to meet: the teacher's, or of the training images given here (data); auto is data with --filter",
        choices=("auto", "teacher", "data"),
    )

    def preset(self, problem: Problem) -> SizePreset:
        """As published for the size."""
        return preset_of(problem.pixels.shape[2])

    def check(self, problem: Problem) -> None:
        """Refuse a net without batch norm, and options that exclude each other.

        Raises:
            UsageError: naming what to change.
        """
        super().check(problem)
        if not norm_layers(problem.backbones[0]):
            name = f"{default_arch(problem.pixels.shape[2])}-bn"
            raise UsageError(
                f"the teacher's net ({type(problem.backbones[0]).__name__}) has no batch norm with running statistics, "
                "which images are recovered from",
                field="teacher",
                hint=f"train one that has, such as 'ddlabel train-teacher --arch {name}'",
            )
        if self._refits(problem) and len(problem.labels) < 2:
            raise UsageError("statistics of one training image are none, expected two or more", field="bn_stats")
        self._typed_weight()
        chosen = self._chosen(problem)
        if self.curriculum != "none" and not chosen.crop:
            raise UsageError(
                f"option 'curriculum' is '{self.curriculum}', which is of crops, and there are none at this size",
                field="curriculum",
                hint="add --set crop=true",
            )
        if chosen.roll_min > chosen.roll_max:
            raise UsageError(
                f"option 'roll_min' is {chosen.roll_min}, expected at most roll_max, {chosen.roll_max}",
                field="roll_min",
            )

    def notes(self, problem: Problem) -> tuple[str, ...]:
        """How many batches of how many images, and what of the teachers and options has no effect."""
        sizes = [len(rows) for rows in self.batches(problem)]
        said = [f"recovers {len(sizes)} batches of up to {max(sizes)} images, {self.length(problem)} steps each"]
        if len(problem.backbones) > 1:
            said.append(f"looks through the first of {len(problem.backbones)} nets")
        if self.mask_shallow and not self._statistics(problem).skipped:
            layers = len(norm_layers(problem.backbones[0]))
            said.append(f"warning: {self.mask_shallow:g} of {layers} batch norms is less than one: none is left out")
        if self.batching == "class" and problem.ipc > self.batch:
            said.append(f"a class has {problem.ipc} images, --set batch={self.batch} parts them")
        return tuple(said)

    def record(self, problem: Problem) -> dict[str, Any]:
        """What `auto` stood for; the weight of R_bn is among the metrics."""
        return {
            "recovery": asdict(self._chosen(problem)) | {"bn_stats": "data" if self._refits(problem) else "teacher"}
        }

    def memory(self, problem: Problem) -> int:
        """Peak of a step: the set, the graph of a batch, gradients of its largest maps, images and moments twice."""
        size = max(len(rows) for rows in self.batches(problem))
        image = problem.pixels[:1].numel()
        step = size * (2 * logit_bytes(problem.backbones[0], problem) + 12 * 4 * image)
        return step + self.set_bytes(problem)

    def batches(self, problem: Problem) -> list[Tensor]:
        """One image of each of `batch` classes, image number by image number; or images of one class."""
        classes, ipc = len(problem.classes), problem.ipc
        rows = torch.arange(classes * ipc).reshape(classes, ipc)
        lines = rows if self.batching == "class" else rows.T
        return [part for line in lines for part in line.contiguous().split(self.batch)]

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Beside the images: `norms` (2, f) to meet, `class_norms` (k, 2, f), and `noise`: CE, R_bn and its weight."""
        net, statistics = problem.backbones[0], self._statistics(problem)
        running = refitted(net, problem, generator) if self._refits(problem) else None
        norms = statistics.running() if running is None else running
        state = super().prepare(problem, generator) | {"norms": norms}
        if self.batching == "class":
            state["class_norms"] = class_statistics(statistics, problem, running)
        count = min(self.batch, len(problem.classes) * problem.ipc)
        noise = torch.randn((count, *problem.pixels.shape[1:]), generator=generator).to(problem.device)
        labels = torch.arange(count).remainder(len(problem.classes)).to(problem.device)
        with torch.no_grad():
            logits, found = statistics.seen(noise, running)
            ce, r_bn = functional.cross_entropy(logits, labels), statistics.distance(found, norms)
        weight = self._weight(problem, float(ce), float(r_bn))
        return state | {"noise": torch.tensor([float(ce), float(r_bn), weight])}

    def augmented(self, problem: Problem, images: Tensor, step: int, generator: Generator) -> Tensor:
        """One crop, mirroring and shift for all images."""
        chosen = self._chosen(problem)
        if chosen.crop:
            least = self.least_area(step / self.length(problem))
            height, width = images.shape[2:]
            top, left, tall, wide = draw_crops(1, height, width, least, generator)[0].tolist()
            mirrored = problem.flip and bool(torch.rand(1, generator=generator) < 0.5)
            images = one_crop(images, (top, left, tall, wide), mirrored=mirrored)
        return rolled(images, chosen.roll_min, chosen.roll_max, generator)

    def least_area(self, done: float) -> float:
        """a(t): least area of a crop as a share of the image, by the share of the steps that are done."""
        if self.curriculum == "none":
            return LEAST_AREA
        part = done / (self.curriculum_end or CURRICULUM_ENDS[self.curriculum])
        if part >= 1:
            return LEAST_AREA
        height = {"cosine": (1 + math.cos(math.pi * part)) / 2, "linear": 1 - part, "step": 1.0}[self.curriculum]
        return LEAST_AREA + (1 - LEAST_AREA) * height

    def loss(self, problem: Problem, state: State, view: View) -> tuple[Tensor, dict[str, float], State]:
        """CE + bn_weight R_bn and what image priors add; metrics `ce` and `r_bn`."""
        ce, r_bn = self._terms(problem, state, view.seen, view.labels)
        loss = ce + state["noise"][2] * r_bn
        if self.tv_weight:
            loss = loss + self.tv_weight * _total_variation(view.seen)
        if self.l2_weight:
            loss = loss + self.l2_weight * torch.linalg.vector_norm(view.seen.flatten(1), dim=1).mean()
        return loss, {"ce": float(ce.detach()), "r_bn": float(r_bn.detach())}, {}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The last iterates; metrics say what the net makes of them as they are, without crop and shift."""
        found = super().finish(problem, state)
        batches, space = self.batches(problem), problem.space.on(problem.device)
        if found.pixels is None:
            raise ValueError("recovered images are pixels")
        terms = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for rows in batches:
                images, wanted = space.encode(found.pixels[rows].to(problem.device)), found.labels[rows]
                both = torch.stack(self._terms(problem, state, images, wanted.to(problem.device))).double().cpu()
                terms += both * torch.tensor([len(rows) / len(found.labels), 1 / len(batches)])
        names = ("ce_noise", "r_bn_noise", "bn_weight", "ce", "r_bn")
        metrics = dict(zip(names, [*state["noise"].tolist(), *terms.tolist()], strict=True))
        return dataclasses.replace(found, metrics=metrics)

    def _terms(self, problem: Problem, state: State, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """CE and R_bn of a batch; of one class where there are statistics of classes."""
        statistics = self._statistics(problem)
        logits, found = statistics.seen(images, state["norms"] if self._refits(problem) else None)
        wanted = state["class_norms"][labels[0]] if self.batching == "class" else state["norms"]
        return functional.cross_entropy(logits, labels), statistics.distance(found, wanted)

    def _statistics(self, problem: Problem) -> NormStatistics:
        net: Net = problem.backbones[0]
        skipped = math.floor(self.mask_shallow * len(norm_layers(net)) + 1e-9)
        return NormStatistics(net, first_weight=self.first_bn, skipped=skipped)

    def _refits(self, problem: Problem) -> bool:
        return self.bn_stats == "data" or (self.bn_stats == "auto" and problem.filtered)

    def _weight(self, problem: Problem, ce: float, r_bn: float) -> float:
        """Of R_bn; what cannot be scaled (a net of one class has no CE) is as published."""
        published, typed = self.preset(problem).bn_weight, self._typed_weight()
        if typed is not None:
            return typed
        scales = self.bn_weight == AUTO and ce > 0 and r_bn > 0
        return published * REFERENCE_RATIO * ce / r_bn if scales else published

    def _typed_weight(self) -> float | None:
        """The number that `bn_weight` is; None where it is a word.

        Raises:
            UsageError: another word, or no finite number from 0 on.
        """
        if self.bn_weight in {PUBLISHED, AUTO}:
            return None
        try:
            weight = float(self.bn_weight)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise UsageError(
                f"option 'bn_weight' is '{self.bn_weight}', expected a number >= 0, {PUBLISHED} or {AUTO}",
                field="bn_weight",
            )
        return weight

    def _chosen(self, problem: Problem) -> SizePreset:
        """The options that have published values, each as typed or as published."""
        published = asdict(self.preset(problem))
        typed = {name: getattr(self, name) for name in published} | {"bn_weight": self._typed_weight()}
        return SizePreset(**{name: published[name] if typed[name] is None else typed[name] for name in published})


def _total_variation(images: Tensor) -> Tensor:
    """The sum of the norms of the differences of neighbours: right, down, and both diagonals, of a whole batch."""
    pairs: Sequence[tuple[Tensor, Tensor]] = (
        (images[..., 1:], images[..., :-1]),
        (images[..., 1:, :], images[..., :-1, :]),
        (images[..., 1:, 1:], images[..., :-1, :-1]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
    )
    return torch.stack([torch.linalg.vector_norm(one - other) for one, other in pairs]).sum()


METHOD = SqueezeRecover
