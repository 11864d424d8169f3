"""Whether labels bend the gradient of distilled images towards that of real ones: DCPI's Fig. 1(c), measured.

On nets that no label was learned through, class by class: the cosine, and DC's distance, between the encoder's gradient
from 256 real images (cross entropy) and that from the distilled images (cross entropy and labels). Cosines lie between
-1 and 1, more is better; the distance (sum over rows of 1 - cosine) lies between 0 and twice the rows, less is better.
Differences of .01 between variants are what other nets would give: they say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .. import seeding
from ..data._dataset import Dataset
from ..distill._gradients import class_gradients, distance
from ..nets._net import Net, build, calibrate_norms, mixes_samples
from ..privileged._form import Form
from ..privileged._objective import Norm, Objective
from ..privileged._scale import encoder_parameters
from ..space import Space

__all__ = ["Aligned", "Real", "Variant", "alignment_on", "held_out_nets"]

NETS = 3
"""Held-out nets at init, and as many that were trained."""
STEPS = 60
"""Steps that the latter are trained for on real images."""
LR, BATCH = 0.01, 256
"""Of those steps: SGD without momentum, as DCPI trains the nets of its first labels. BATCH is also the real batch."""
CALIBRATION = 8
"""Real images of each class that batch norms are calibrated on."""
PIXELS_PER_PASS = 256 * 32 * 32


@dataclass(frozen=True)
class Real:
    """Real images as nets see them, drawn by name so that every variant meets the same."""

    dataset: Dataset
    space: Space
    device: torch.device
    seed: int

    def batch(self, *stream: str | int) -> tuple[Tensor, Tensor]:
        """256 images of all classes and their labels."""
        count = len(self.dataset.train)
        return self._at(torch.randperm(count, generator=self._generator(*stream))[:BATCH])

    def of_class(self, label: int, count: int, *stream: str | int) -> Tensor:
        """(count, c, h, w) images of one class, as many as there are at most."""
        members = (self.dataset.train.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=self._generator(*stream, label))
        return self._at(members[order[:count]])[0]

    def _at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        split = self.dataset.train
        images = self.space.on(self.device).encode(split.pixels[rows].to(self.device))
        return images, split.labels[rows].to(self.device)

    def _generator(self, *stream: str | int) -> torch.Generator:
        return seeding.generator(self.seed, "diagnose", *stream)


@dataclass(frozen=True)
class Variant:
    """What the distilled images are trained with."""

    labels: Tensor | None
    """(n, *shape), or None for cross entropy alone."""
    norm: Norm | None = None


@dataclass(frozen=True)
class Aligned:
    """Of one variant on one net, means over classes."""

    cosine: float
    distance: float


def held_out_nets(real: Real, arch: str, tick: Callable[[], None]) -> Iterator[tuple[str, Net]]:
    """Three nets as `init`, then three as `trained` for 60 real steps; batch norms hold statistics of real images.

    Args:
        real: what they see.
        arch: canonical name.
        tick: called after every training step.
    """
    info = real.dataset.info
    for stage in ("init", "trained"):
        for index in range(NETS):
            net = build(
                arch,
                channels=info.channels,
                size=info.height,
                classes=len(info.classes),
                generator=seeding.generator(real.seed, "diagnose", stage, index),
            ).to(real.device)
            if stage == "trained":
                _train(net, real, index, tick)
            if mixes_samples(net):
                calibrate_norms(net, _calibration(real))
            yield stage, net


def alignment_on(
    net: Net,
    real: Real,
    images: Tensor,
    hard: Tensor,
    variants: Mapping[str, Variant],
    *,
    classes: Sequence[int],
    form: Form,
    objective: Objective,
    tick: Callable[[], None],
) -> dict[str, Aligned]:
    """How the gradients of each variant lie to those of real images on one net.

    Args:
        net: of the form's kind; its norms must not mix samples.
        real: gives the same real batch of a class to all variants and nets.
        images, hard: (n, c, h, w) float32 and (n,), of the distilled set.
        variants: what they are trained with, by name.
        classes: those compared; each has distilled images.
        form, objective: of the labels.
        tick: called after every class.
    """
    parameters = encoder_parameters(net)
    chunk = max(1, PIXELS_PER_PASS // (images.shape[2] * images.shape[3]))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for label in classes:
        target = class_gradients(net, real.of_class(label, BATCH, "real"), label, parameters, chunk)
        rows = (hard == label).nonzero().flatten()
        maps, logits = net.tap(images[rows], form.layer)
        for name, variant in variants.items():
            loss = functional.cross_entropy(logits, hard[rows])
            if variant.labels is not None:
                loss = loss + objective(form.reduce(maps), variant.labels[rows], hard[rows], variant.norm)
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            ours, theirs = (torch.cat([part.flatten() for part in side]) for side in (gradients, target))
            cosine = functional.cosine_similarity(ours, theirs, dim=0)
            found[name].append((float(cosine), float(distance(gradients, target, "ours"))))
        tick()
    return {name: Aligned(*(sum(side) / len(side) for side in zip(*each, strict=True))) for name, each in found.items()}


def _train(net: Net, real: Real, index: int, tick: Callable[[], None]) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    for step in range(STEPS):
        images, labels = real.batch("step", index, step)
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        tick()
    net.zero_grad()


def _calibration(real: Real) -> Tensor:
    """Real images of all classes, as many of each, for batch norms."""
    classes = range(len(real.dataset.info.classes))
    return torch.cat([real.of_class(label, CALIBRATION, "calibration") for label in classes])
