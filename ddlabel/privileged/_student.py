"""A student that learns from feature or attention labels: a net with a tap, and an adapter that is thrown away.

DCPI: Dataset Condensation using Privileged Information; earlier DRUPI. The labels are used in training alone: the
trained student is the inner net and takes images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ..errors import BundleError, UsageError
from ..losses._loss import Loss, Targets, loss_of_epoch
from ..nets._net import Net
from ._form import Form, describe_shape, layer_shapes
from ._objective import Norm, Objective

__all__ = [
    "ADAPTERS",
    "AdaptedForm",
    "Adapter",
    "PrivilegedLoss",
    "Tapped",
    "TappedStudent",
    "goal_of",
    "shrink",
    "student_layer",
]

ADAPTERS = ("auto", "learned", "orthogonal", "none")
Shape = tuple[int, ...]


class Tapped(NamedTuple):
    """What a tapped student gives for a batch."""

    logits: Tensor
    """(b, k)."""
    features: Tensor
    """(b, c, h, w): what is compared with labels."""


def student_layer(form: Form, arch: str, *, channels: int, size: int, classes: int) -> tuple[int, Shape]:
    """The block of a student that is compared with labels of a form, and the shape that it gives.

    Labels of the last block of their net are compared with the student's last; others with the block of their number.

    Raises:
        BundleError: the student has no block of that number, listing those it has.
    """
    image = {"channels": channels, "size": size, "classes": classes}
    shapes = layer_shapes(arch, **image)
    layer = len(shapes) if form.layer == len(layer_shapes(form.arch, **image)) else form.layer
    if layer > len(shapes):
        have = ", ".join(f"{index} {describe_shape(shape)}" for index, shape in enumerate(shapes, 1))
        raise BundleError(
            f"the labels are of layer {form.layer} of '{form.arch}', '{arch}' has layers {have}",
            field="arch",
            hint="use a student with that layer, or label layer 'last', which every net has",
        )
    return layer, shapes[layer - 1]


def goal_of(source: Shape, form: Form) -> tuple[int, int, int]:
    """The shape (c, h, w) in which a student's features and labels are compared: the labels', or smaller maps.

    Args:
        source: of the student's block, (c, h, w), or (f,) for vectors, which have no maps that could be smaller.
        form: of the labels.
    """
    if len(source) == 1:
        return form.shape
    channels, height, width = form.shape
    if form.attention == "channel":
        return form.shape
    return channels, min(height, source[1]), min(width, source[2])


class Adapter(nn.Module):
    """From what a student's block gives to the form of labels, trained with the student and thrown away.

    Maps are pooled as the labels are, averaged down to the smaller of both sizes, and mixed by a 1 x 1 convolution
    where the channels differ or one is asked for; spatial attention has one channel and is not mixed. Vectors go
    through one linear layer to all c * h * w elements of a label instead; without one they are maps of 1 x 1.

    Differs from the authors' code in: theirs is a new random layer in every batch, which nothing trains.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, source: Shape, form: Form, mode: str, generator: Generator) -> None:
        """Draw the adapter.

        Args:
            source: of the student's block, (c, h, w) or (f,).
            form: of the labels.
            mode: auto (a trained one where shapes differ), learned, orthogonal (drawn and never trained) or none.
            generator: of this adapter alone.

        Raises:
            UsageError: `none` where shapes differ.
        """
        super().__init__()
        self.form, self.goal, self.is_vector = form, goal_of(source, form), len(source) == 1
        reduced = (*source, 1, 1)[:3] if form.attention is None or self.is_vector else _pooled(source, form)
        fits = reduced == form.shape
        inputs, outputs = reduced[0], self.goal[0]
        if self.is_vector:
            outputs *= self.goal[1] * self.goal[2]
        if mode == "none" and not fits:
            raise UsageError(
                f"the labels are {describe_shape(form.shape)} of '{form.arch}', this student gives "
                f"{describe_shape(reduced)}, and --set adapter=none compares equal shapes alone",
                field="adapter",
                hint=f"use --set adapter=auto, or --arch {form.arch}",
            )
        differs = not fits if self.is_vector else inputs != outputs
        is_mixing = mode in {"learned", "orthogonal"} or (mode == "auto" and differs)
        if not is_mixing or (form.attention == "spatial" and not self.is_vector):
            self.kind = "none"
            self.weight = self.bias = None
            return
        self.kind = "orthogonal" if mode == "orthogonal" else "learned"
        weight, bias = _draw(outputs, inputs, self.kind, generator)
        if self.kind == "learned":
            self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", bias)

    @property
    def shrinks_labels(self) -> bool:
        """Whether the student's maps are smaller than the labels, which are then averaged down to them."""
        return self.goal != self.form.shape

    @property
    def parameter_count(self) -> int:
        """Numbers that are trained beside the student."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def norm(self) -> float | None:
        """Frobenius norm of the weight; None without one."""
        return None if self.weight is None else float(torch.linalg.vector_norm(self.weight.detach()))

    def forward(self, maps: Tensor) -> Tensor:
        """(b, *goal) of maps (b, c, h, w) or vectors (b, f)."""
        if self.is_vector and self.weight is not None:
            mixed: Tensor = functional.linear(maps, self.weight, self.bias)
            return mixed.reshape(-1, *self.goal)
        reduced = shrink(self.form.reduce(maps), self.goal)
        if self.weight is None:
            return reduced
        return functional.conv2d(reduced, self.weight[:, :, None, None], self.bias)


@dataclass(frozen=True, kw_only=True)
class AdaptedForm(Form):
    """What a student with an adapter compares with labels, as a form of its own net."""

    adapter: Adapter

    @classmethod
    def of(cls, arch: str, layer: int, adapter: Adapter) -> AdaptedForm:
        """Of block `layer` of a student; its shape is the one that is compared."""
        own = adapter.form
        return cls(arch=arch, layer=layer, attention=own.attention, pool=own.pool, shape=adapter.goal, adapter=adapter)

    def reduce(self, maps: Tensor) -> Tensor:
        """(b, *shape) of maps (b, c, h, w) or vectors (b, f), by the adapter."""
        adapted: Tensor = self.adapter(maps)
        return adapted


def shrink(values: Tensor, goal: Shape) -> Tensor:
    """Average maps (b, c, h, w) down to the height and width of a goal (c, h, w); maps of that size are themselves."""
    size = (goal[1], goal[2])
    return values if tuple(values.shape[2:]) == size else functional.adaptive_avg_pool2d(values, size)


class TappedStudent(nn.Module):
    """A net with a tap and an adapter: logits and features of one forward pass."""

    def __init__(self, net: Net, layer: int, adapter: Adapter) -> None:
        super().__init__()
        self.net, self.layer, self.adapter = net, layer, adapter

    @property
    def bare(self) -> Net:
        """What gives logits of images alone, as `training` asks of a net that gives more."""
        return self.net

    def forward(self, images: Tensor) -> Tapped:
        """Of images (b, c, h, w)."""
        maps, logits = self.net.tap(images, self.layer)
        return Tapped(logits, self.adapter(maps))


@dataclass(frozen=True)
class PrivilegedLoss:
    """Equation 3 of DCPI: a loss of logits, plus the objective of features on the samples that are whole images.

    Sub-crops have no feature label: rows that `Targets.local` marks are left out. With all weights zero the loss is the
    one of logits and nothing else, so that students are the same bits as without labels.

    Differs from the authors' code in: one forward pass gives logits and features, theirs runs the encoder twice; labels
    can follow mirrored images.
    """

    base: Loss
    objective: Objective
    norm: Norm | None = None
    """On the device of the student, in the shape that is compared."""
    goal: Shape | None = None
    """The shape that is compared; labels of larger maps are averaged down to it."""
    mirror: bool = False
    """Whether labels are mirrored where the augmentation mirrored their images."""

    def __call__(self, logits: Tensor | Tapped, targets: Targets) -> Tensor:
        """The scalar of a batch; logits without features take the loss of logits alone."""
        if not isinstance(logits, Tapped):
            return self.base(logits, targets)
        value, features, labels = self.base(logits.logits, targets), logits.features, targets.privileged
        if labels is None or not self.is_on:
            return value
        if self.mirror and targets.mirrored is not None:
            labels = torch.where(targets.mirrored[:, None, None, None], labels.flip(3), labels)
        hard = targets.hard
        if targets.local is not None:
            whole = ~targets.local
            if not bool(whole.any()):
                return value
            features, labels, hard = features[whole], labels[whole], hard[whole]
        labels = shrink(labels, self.goal) if self.goal else labels
        return value + self.objective(features, labels, hard, self.norm)

    @property
    def is_on(self) -> bool:
        """Whether any term has a weight."""
        own = self.objective
        return any((own.lambda_reg, own.ce, own.infonce, own.supcon))

    def at_epoch(self, epoch: int) -> PrivilegedLoss:
        """The same with the loss of logits in an epoch, from 0."""
        return replace(self, base=loss_of_epoch(self.base, epoch))


def _pooled(source: Shape, form: Form) -> Shape:
    return (1, *source[1:]) if form.attention == "spatial" else (source[0], 1, 1)


def _draw(outputs: int, inputs: int, kind: str, generator: Generator) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias (outputs,): torch's default for a layer, or a semi-orthogonal one and 0."""
    weight, bias = torch.empty(outputs, inputs), torch.zeros(outputs)
    if kind == "orthogonal":
        return nn.init.orthogonal_(weight, generator=generator), bias
    bound = inputs**-0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    return weight, nn.init.uniform_(bias, -bound, bound, generator=generator)
