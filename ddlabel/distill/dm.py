"""DM: distribution matching (Zhao & Bilen, WACV 2023, arXiv:2110.04181)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..augment._augment import Step, apply
from ..augment._augment import build as build_augmentation
from ..errors import UsageError
from ..nets._net import mixes_samples
from ..options import opt
from ._means import Outputs, deepest, distance_of_means, match_means, mean_outputs
from ._memory import embedding_bytes, map_bytes, net_bytes, real_bytes, set_bytes
from ._method import Distilled, Problem, State
from ._real import RealBatches, class_labels, first_images, images_per_pass, match_by_class, net_on_meta, random_net

__all__ = ["METHOD"]

LARGE_SET = {10: 50, 100: 125}
"""Largest ipc, by number of classes, at which the published learning rate is 1 rather than 10."""
AT_ONCE = 32
"""Distilled images of a class up to which one graph holds them all."""
RESNET_RATE = 0.1
"""Largest `lr_images` that the authors advise for ResNet18."""


@dataclass(frozen=True, kw_only=True)
class DistributionMatching:
    """Each step draws a new random net and moves the images so that class means of its embeddings agree.

    Loss: sum over classes of the squared distance of the mean embeddings of augmented real and distilled images,
    summed (not averaged) over features. The reported loss is divided by the number of classes. With `mask_shallow`
    (PAD, arXiv:2408.03360) the outputs of all layers but the shallowest are compared, each weighted by the width of
    the embedding over its own; only the embedding stays when the share is large enough, which is plain DM.

    Differs from the authors' code in: exact micro-batching instead of stepping inside the class loop; explicit seeds;
    the loop has `steps` steps where theirs has one more.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    memory_knobs: ClassVar[tuple[str, ...]] = ("microbatch", "batch_real")
    steps: int = opt(20_000, "optimisation steps, each with a new random net", min=1, max=100_000_000)
    lr_images: float | None = opt(
        None, "SGD step on images in model-input space; auto is 1, or 10 for large sets as published", above=0
    )
    momentum: float = opt(0.5, "momentum of the images' SGD", min=0, below=1)
    batch_real: int = opt(256, "real images per class and step, at most the class", min=1, max=1_000_000)
    init: str = opt("real", "initial images: random real ones, or normal noise", choices=("real", "noise"))
    augment: str = opt("dsa", "augmentation, the same draw for real and distilled images", choices=("dsa", "none"))
    microbatch: int | None = opt(
        None,
        "distilled images per backward pass; auto takes a class of up to 32 at once, else what suits the device",
        min=1,
    )
    mask_shallow: float | None = opt(
        None,
        "match the outputs of every layer but this share of the shallowest (PAD); auto matches the embedding alone",
        min=0,
        below=1,
    )

    def total_steps(self, problem: Problem) -> int:
        """The option `steps`."""
        del problem
        return self.steps

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Initial images (k*ipc, c, h, w) and a zero momentum buffer.

        Raises:
            UsageError: `microbatch` with a net whose batch norm couples the images of a batch, or `mask_shallow` with
                a net that has no taps.
        """
        if self.microbatch is not None and mixes_samples(net_on_meta(problem)):
            raise UsageError(
                f"option 'microbatch' is {self.microbatch}, net '{problem.arch}' has batch norm and needs all images",
                field="microbatch",
                hint="drop it, or use instance norm",
            )
        self._taps(problem)
        images = first_images(problem, self.init, generator)
        return problem.canvas.begin(images, class_labels(problem), generator)

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """One SGD step on all images; every class adds its own gradient first."""
        del index
        net = random_net(problem, generator).requires_grad_(False)
        outputs = Outputs(net, self._taps(problem))
        batches = RealBatches(problem, build_augmentation(self.augment, flip=problem.flip), self.batch_real, generator)
        images = problem.canvas.render(state)
        if mixes_samples(net):
            loss, gradient = self._match_jointly(problem, outputs, images, batches)
        else:
            loss, gradient = self._match_by_class(problem, outputs, images, batches)
        moved = problem.canvas.descend(state, gradient, lr=self._rate(problem), momentum=self.momentum)
        return {**state, **moved}, {"loss": loss / len(problem.classes)}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The optimised images."""
        return Distilled(
            labels=class_labels(problem),
            images=problem.canvas.render(state).cpu(),
            metrics={"lr_images": self._rate(problem)},
        )

    def memory(self, problem: Problem) -> int:
        """Peak bytes of a step, estimated.

        The images five times, the net, a real batch twice, and the larger of the maps of a real part and the graph of
        a distilled part, half as large again. Batch norm takes all classes at once on both sides.
        """
        chunk = images_per_pass(problem)
        joint = mixes_samples(net_on_meta(problem))
        classes = len(problem.classes) if joint else 1
        own = classes * problem.ipc if joint or problem.ipc <= AT_ONCE else chunk
        real = classes * self.batch_real if joint else min(chunk, self.batch_real)
        per_image = embedding_bytes(problem)
        maps = per_image if self.mask_shallow is not None else map_bytes(problem)
        work = max(real * maps, min(own, self.microbatch or own) * per_image * 3 // 2)
        return set_bytes(problem) + net_bytes(problem, 0) + classes * real_bytes(problem, self.batch_real) + work

    def shares_steps(self, problem: Problem) -> bool:
        """Processes match classes of their own, unless batch norm sees all of them at once."""
        return not mixes_samples(net_on_meta(problem))

    def notes(self, problem: Problem) -> tuple[str, ...]:
        """What a user should know before the first step."""
        rate = self._rate(problem)
        if problem.arch.split("-")[0] != "resnet18" or rate <= RESNET_RATE:
            return ()
        return (
            f"DM through ResNet18 with lr_images {rate:g} is known to end below random selection: "
            f"use --set lr_images={RESNET_RATE} or less, or distil through a ConvNet",
        )

    def _taps(self, problem: Problem) -> int | None:
        if self.mask_shallow is None:
            return None
        channels, size = problem.pixels.shape[1:3]
        taps = net_on_meta(problem).taps(torch.empty(1, channels, size, size, device="meta"))
        return deepest(len(taps), self.mask_shallow)

    def _rate(self, problem: Problem) -> float:
        if self.lr_images is not None:
            return self.lr_images
        limit = LARGE_SET.get(len(problem.classes), LARGE_SET[10])
        return 1.0 if problem.ipc <= limit else 10.0

    def _match_by_class(
        self, problem: Problem, outputs: Outputs, images: Tensor, batches: RealBatches
    ) -> tuple[float, Tensor]:
        chunk = images_per_pass(problem)
        microbatch = self.microbatch or (None if problem.ipc <= AT_ONCE else chunk)

        def match(_label: int, real: Tensor, steps: tuple[Step, ...], own: Tensor) -> tuple[float, Tensor]:
            return match_means(outputs, own, steps, mean_outputs(outputs, real, chunk), microbatch)

        return match_by_class(batches, images, match, outputs.net)

    def _match_jointly(
        self, problem: Problem, outputs: Outputs, images: Tensor, batches: RealBatches
    ) -> tuple[float, Tensor]:
        """One forward pass per side, so that batch norm sees all classes."""
        draws = [batches.draw(label) for label in range(len(problem.classes))]
        lengths = [len(real) for real, _steps in draws]
        with torch.no_grad():
            found = outputs(torch.cat([real for real, _steps in draws]))
            targets = [torch.stack([part.mean(dim=0) for part in torch.split(each, lengths)]) for each in found]
        leaf = images.detach().requires_grad_(True)
        augmented = [
            apply(part, steps) for part, (_real, steps) in zip(torch.split(leaf, problem.ipc), draws, strict=True)
        ]
        own = outputs(torch.cat(augmented))
        loss = distance_of_means([each.reshape(len(draws), problem.ipc, -1).mean(dim=1) for each in own], targets)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), gradient


METHOD = DistributionMatching
