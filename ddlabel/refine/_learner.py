"""What all ways to learn feature and attention labels share: first values, moves, and the result.

DCPI: Dataset Condensation using Privileged Information; earlier DRUPI. A learner is a `Method` of a `Lesson`, driven by
the loop of `distill/_method.py`; its state holds the labels (K, n, *shape) and the nets that they came from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .. import seeding
from ..distill._method import Distilled, State
from ..distill._real import random_net
from ..nets._net import Net
from ..options import as_dict
from ..privileged._form import Form, layer_shapes
from ..privileged._objective import Norm, fit_norm
from ..privileged._scale import fresh_ratios, relative_lambda, scale_warning
from ._feature_options import FeatureOptions, Lesson
from ._initial import features_of, labels_of_nets, net_in, nets_as_state

__all__ = ["FeatureLearning", "Learned", "Lesson"]

ADAM = (0.9, 0.999, 1e-20)
"""Decay of the mean gradient and of its square, and what keeps the quotient finite: the gradients of labels through
students are 1e-12 to 1e-4, so torch's 1e-8 would stop them."""
RELATIVE_RATE = 0.01
"""Adam's step as a share of the rms of the first labels: one step moves an element by about 1 %."""
LEAST_MOVEMENT = 0.001
"""Rms of the change over that of the first labels, below which next to nothing was learned."""


@dataclass(frozen=True, kw_only=True)
class Learned(Distilled):
    """What was learned; `images` where they were moved too."""

    values: Tensor
    """(n, K, *form.shape) float32 on the CPU."""
    form: Form
    norm: Norm | None
    parameters: Mapping[str, Any]
    """For the section: mode, matcher, weights and terms as they were followed."""


@dataclass(frozen=True, kw_only=True)
class FeatureLearning(FeatureOptions):
    """What every learner does with labels; the matchers add what they are moved by."""

    def begin_labels(self, lesson: Lesson, generator: Generator) -> State:
        """The labels' entries of the state before the first step.

        Raises:
            UsageError: `lambda_mode=relative` for labels that do not pull at any weight.
        """
        labels, nets = self.initial_labels(lesson, generator)
        state = {
            "features": labels,
            "features_start": labels.clone(),
            "features_velocity": torch.zeros_like(labels),
            **nets_as_state(nets),
        }
        if self.uses_adam():
            state |= {"features_square": torch.zeros_like(labels), "features_count": torch.tensor(0)}
        norm = fit_norm(labels) if self.norm == "zscore" else None
        if norm is not None:
            state |= {"norm_mean": norm.mean, "norm_scale": norm.scale}
        weight, pull = self._weigh(lesson, labels.mean(0), norm)
        state["features_lambda"] = torch.tensor(weight, dtype=torch.float64)
        state["features_pull"] = torch.tensor(pull, dtype=torch.float64)
        return state

    def initial_labels(self, lesson: Lesson, generator: Generator) -> tuple[Tensor, tuple[Net, ...]]:
        """First labels (K, n, *shape) and the nets that gave them, none for noise.

        Differs from the authors' code in: features are taken in eval mode (the same without batch norm).
        """
        form = self.form(lesson)
        if self.init == "noise":
            shape = (self.k, len(lesson.images), *form.shape)
            return torch.randn(shape, generator=generator).to(lesson.device), ()
        nets = lesson.nets if self.init == "teacher" else labels_of_nets(lesson, self.k, generator)
        return torch.stack([features_of(net, lesson.images, form) for net in nets]), tuple(nets)

    def _weigh(self, lesson: Lesson, labels: Tensor, norm: Norm | None) -> tuple[float, float]:
        """lambda_reg, and how strongly labels (n, *shape) pull at new nets beside the classes at that weight."""
        if not self.lambda_reg:
            return 0.0, 0.0
        ratios = fresh_ratios(
            lesson.images.to(lesson.device),
            lesson.hard,
            labels,
            self.form(lesson),
            self.terms,
            norm,
            classes=len(lesson.classes),
            seed=lesson.seed,
        )
        weight = relative_lambda(self.lambda_reg, ratios) if self.lambda_mode == "relative" else self.lambda_reg
        return weight, weight * sorted(ratios)[len(ratios) // 2]

    def warning(self, state: State) -> str | None:
        """What to say of a weight at which labels hardly count, or outweigh the classes."""
        weight, pull = float(state["features_lambda"]), float(state["features_pull"])
        return scale_warning(weight, [pull / weight]) if weight else None

    def move_labels(self, state: State, gradient: Tensor) -> State:
        """The labels' entries after one step against a gradient (K, n, *shape); `state` is not changed."""
        if self.uses_adam():
            moved = self._move_by_adam(state, gradient)
        else:
            velocity = self.momentum_feat * state["features_velocity"] + gradient
            rate = self.lr_feat if self.lr_feat is not None else self.feature_rate
            moved = {"features": state["features"] - (rate or 0.0) * velocity, "features_velocity": velocity}
        if self.nonneg:
            moved["features"] = moved["features"].clamp(min=0)
        return moved

    def _move_by_adam(self, state: State, gradient: Tensor) -> State:
        first, second, least = ADAM
        count = state["features_count"] + 1
        mean = first * state["features_velocity"] + (1 - first) * gradient
        square = second * state["features_square"] + (1 - second) * gradient.square()
        rate = self.lr_feat or RELATIVE_RATE * rms(state["features_start"])
        size = (square / (1 - second ** int(count))).sqrt() + least
        labels = state["features"] - rate / (1 - first ** int(count)) * mean / size
        return {"features": labels, "features_velocity": mean, "features_square": square, "features_count": count}

    def first_net(self, lesson: Lesson, state: State, k: int) -> Net:
        """The net that gave the k-th first labels, frozen and in eval mode."""
        return net_in(state, k, random_net(lesson, seeding.generator(lesson.seed, "refine", "first")))

    def as_maps(self, lesson: Lesson, labels: Tensor) -> Tensor:
        """Whole features (m, *shape) as what the tapped block gives: (m, c, h, w), or vectors (m, f)."""
        shapes = layer_shapes(
            lesson.arch, channels=lesson.pixels.shape[1], size=lesson.pixels.shape[2], classes=len(lesson.classes)
        )
        return labels.flatten(1) if len(shapes[self.form(lesson).layer - 1]) == 1 else labels

    def read(self, lesson: Lesson, nets: Sequence[Net], labels: Tensor) -> tuple[float, float]:
        """How the rest of net k reads the classes of the images from whole features (K, n, *shape).

        Returns:
            Share that is read right, and mean cross entropy.
        """
        layer, right, entropy = self.form(lesson).layer, [], []
        with torch.no_grad():
            for net, own in zip(nets, labels, strict=True):
                logits = net.rest(self.as_maps(lesson, own), layer)
                right.append((logits.argmax(1) == lesson.hard).float().mean())
                entropy.append(functional.cross_entropy(logits, lesson.hard))
        return float(torch.stack(right).mean()), float(torch.stack(entropy).mean())

    def movement(self, state: State) -> float:
        """rms(F - first F) / rms(first F)."""
        return rms(state["features"] - state["features_start"]) / max(rms(state["features_start"]), 1e-12)

    def learned(self, lesson: Lesson, state: State, base: Distilled, metrics: Mapping[str, float]) -> Learned:
        """The result: the mean of K labels or all of them, and what the section should say.

        Args:
            lesson, state: of the last step.
            base: images, soft labels and step size where they were learned too, and the matcher's metrics.
            metrics: more of them.
        """
        labels = state["features"]
        if lesson.kind == "feature" and self.init != "noise":
            nets = [self.first_net(lesson, state, k) for k in range(self.k)]
            first, last = (self.read(lesson, nets, values) for values in (state["features_start"], labels))
            metrics = {
                **metrics,
                "label_accuracy": last[0],
                "label_cross_entropy": last[1],
                "first_label_accuracy": first[0],
                "first_label_cross_entropy": first[1],
            }
        values = labels.mean(0, keepdim=True) if self.store == "mean" else labels
        norm = self.norm_of(state)
        own = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
        own["metrics"] = {
            **base.metrics,
            **metrics,
            "movement": self.movement(state),
            "lambda_reg": float(state["features_lambda"]),
            "pull": float(state["features_pull"]),
        }
        return Learned(
            **own,
            values=values.transpose(0, 1).contiguous().cpu(),
            form=self.form(lesson),
            norm=None if norm is None else Norm(norm.mean.cpu(), norm.scale.cpu()),
            parameters={
                "mode": "learned",
                "matcher": self.matcher,
                **as_dict(self.objective(state)),
                "lambda_task": self.task_weight(lesson),
                "soft": self.soft,
                "label_aug": self.label_aug,
            },
        )

    def summary(self, metrics: Mapping[str, float]) -> str:
        """A sentence of how far the labels moved, and how well they are read now, of the metrics of `learned`."""
        movement = metrics["movement"]
        said = [f"labels moved by {movement:.2%} of their size"]
        if movement < LEAST_MOVEMENT:
            said.append("next to nothing was learned: raise --set lr_feat, steps or lambda_reg")
        if "label_accuracy" in metrics:
            said.append(
                f"the nets that gave the first ones read {metrics['label_accuracy']:.1%} of them right, "
                f"{metrics['first_label_accuracy']:.1%} at the start"
            )
        return "; ".join(said)


def rms(values: Tensor) -> float:
    """Root of the mean square."""
    return float(values.double().square().mean().sqrt())
