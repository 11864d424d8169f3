"""Feature and attention labels learned by gradient matching (DCPI with DC)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.optim import SGD

from ..augment._augment import apply, flips
from ..augment._augment import build as build_augmentation
from ..distill._gradients import class_gradients
from ..distill._memory import first_order_bytes, net_bytes, real_bytes, second_order_bytes, set_bytes
from ..distill._method import Distilled, State
from ..distill._real import RealBatches, class_labels, images_per_pass, random_net
from ..distill._student import Privileged
from ..distill.dc import GradientMatching, calibrate, loops
from ..errors import UsageError
from ..nets._net import Net, mixes_samples
from ..options import opt
from ..privileged._objective import infonce, supcon
from ._feature_options import same_as
from ._initial import ONE_EPOCH
from ._label_gradient import Labelled, encoder_rows, label_gradients
from ._learner import FeatureLearning, Learned, Lesson

__all__ = ["GradientLearning"]


@dataclass(frozen=True, kw_only=True)
class GradientLearning(FeatureLearning):
    """DC's loops, with labels in place of images: see `refine/dcpi.py`."""

    matcher: ClassVar[str] = "dc"
    feature_rate: ClassVar[float | None] = 0.1
    needs: ClassVar[frozenset[str]] = frozenset()
    memory_knobs: ClassVar[tuple[str, ...]] = ("k", "batch_real", "batch_train")
    exact: str = opt(
        "auto",
        "derivative of the distance by labels: jvp (one pass forward, for mse without l2 or further terms), double "
        "(differentiating twice); auto takes jvp where it can",
        choices=("auto", "jvp", "double"),
    )
    steps: int = same_as(GradientMatching, "steps")
    outer: int | None = same_as(GradientMatching, "outer")
    inner: int | None = same_as(GradientMatching, "inner")
    lr_net: float = same_as(GradientMatching, "lr_net")
    batch_real: int = same_as(GradientMatching, "batch_real")
    batch_train: int = same_as(GradientMatching, "batch_train")
    lr_images: float | None = same_as(GradientMatching, "lr_images")
    momentum: float = same_as(GradientMatching, "momentum")
    augment: str = same_as(GradientMatching, "augment")

    def total_steps(self, lesson: Lesson) -> int:
        """The option `steps`."""
        del lesson
        return self.steps

    def check(self, lesson: Lesson) -> None:
        """Refuse options that cannot work together, or would do nothing; raises UsageError."""
        self.check_labels(lesson, mirrors=self.augment == "dsa" and lesson.flip)
        if self.exact == "jvp" and not self.terms.is_affine:
            raise UsageError(
                "exact is 'jvp', which takes metric=mse without norm=l2, ce, infonce and supcon",
                field="exact",
                hint="use --set exact=double",
            )

    def notes(self, lesson: Lesson) -> tuple[str, ...]:
        """What a user should know before the first step."""
        found = [*self._images().notes(lesson), *self.label_notes(lesson)]
        used = [name for name in ("infonce", "supcon") if getattr(self, name)]
        if used and lesson.ipc == 1:
            found.append(
                f"gradients are matched image by image at ipc 1, which leaves {' and '.join(used)} nothing to compare"
            )
        elif used:
            found.append(
                f"gradients are matched class by class, which leaves {' and '.join(used)} images of one class alone"
            )
        return tuple(found)

    def memory(self, lesson: Lesson) -> int:
        """Peak bytes of a step, estimated as for DC; see `GradientMatching.memory`."""
        chunk, count = images_per_pass(lesson), len(lesson.classes) * lesson.ipc
        first, second = first_order_bytes(lesson), second_order_bytes(lesson)
        graphs = [
            min(self.batch_real, chunk) * first,
            lesson.ipc * (2 * first if self._takes_shortcut() else second),
            min(count, self.batch_train) * first * (self._loops(lesson)[0] > 1),
            min(lesson.ipc, chunk) * second * self.tune_images,
            ONE_EPOCH.batch * first * (self.init == "one-epoch"),
        ]
        return (
            set_bytes(lesson)
            + net_bytes(lesson, 4)
            + real_bytes(lesson, self.batch_real)
            + self.label_bytes(lesson)
            + max(graphs) * 3 // 2
        )

    def prepare(self, lesson: Lesson, generator: Generator) -> State:
        """First labels, and the images where they are moved too."""
        state = self.begin_labels(lesson, generator)
        if self.tune_images:
            state |= lesson.canvas.begin(lesson.images.to(lesson.device), class_labels(lesson), generator)
        return state

    def step(self, lesson: Lesson, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """All loops of one random net: images, then labels, then the net."""
        del index
        net = random_net(lesson, generator)
        augmentation = build_augmentation(self.augment, flip=lesson.flip)
        batches = RealBatches(lesson, augmentation, self.batch_real, generator)
        optimizer = SGD(net.parameters(), lr=self.lr_net)
        outer, inner = self._loops(lesson)
        total, accuracy = 0.0, 0.0
        for loop in range(outer):
            if self.tune_images:
                state = {**state, **self._move_images(lesson, state, net, batches)}
            loss, gradient = self._match(lesson, state, net, batches)
            pulled, accuracy = self._read(lesson, state, net, trains=outer > 1)
            state = {**state, **self.move_labels(state, gradient + pulled)}
            total += loss
            if loop + 1 < outer:
                self._train(lesson, state, net, optimizer, inner, generator)
        metrics = {"loss": total / (len(lesson.classes) * outer * self.k), "movement": self.movement(state)}
        return state, metrics | ({"accuracy": accuracy} if self.task_weight(lesson) else {})

    def finish(self, lesson: Lesson, state: State) -> Learned:
        """Labels, and the images where they were moved."""
        outer, inner = self._loops(lesson)
        metrics: dict[str, float] = {"outer": outer, "inner": inner}
        if self.tune_images:
            metrics["lr_images"] = self._images().image_rate(lesson)
        images = lesson.canvas.render(state).cpu() if self.tune_images else None
        base = Distilled(labels=class_labels(lesson), images=images, metrics=metrics)
        return self.learned(lesson, state, base, {})

    def _images(self) -> GradientMatching:
        """DC itself with the same options."""
        shared = {field.name for field in dataclasses.fields(GradientMatching)}
        shared &= {field.name for field in dataclasses.fields(self)} - {"init"}
        return GradientMatching(**{name: getattr(self, name) for name in sorted(shared)})

    def _loops(self, lesson: Lesson) -> tuple[int, int]:
        return loops(lesson.ipc, self.outer, self.inner)

    def _takes_shortcut(self) -> bool:
        return self.exact != "double" and self.terms.is_affine

    def _move_images(self, lesson: Lesson, state: State, net: Net, batches: RealBatches) -> State:
        """DC's step on images: cross entropy on both sides, all parameters."""
        method = self._images()
        _loss, gradient = method.match(lesson, net, lesson.canvas.render(state), batches)
        return lesson.canvas.descend(state, gradient, lr=method.image_rate(lesson), momentum=self.momentum)

    def _seen(self, lesson: Lesson, state: State) -> Tensor:
        return lesson.canvas.render(state) if self.tune_images else lesson.images.to(lesson.device)

    def _labels(self, lesson: Lesson, state: State, labels: Tensor, rows: slice | Tensor) -> Privileged:
        """Labels (m, *shape) of some of the images, for the net's loss."""
        return Privileged(
            labels=labels,
            hard=lesson.hard[rows],
            form=self.form(lesson),
            objective=self.objective(state),
            norm=self.norm_of(state),
            mirror=self.label_aug == "hflip",
        )

    def _match(self, lesson: Lesson, state: State, net: Net, batches: RealBatches) -> tuple[float, Tensor]:
        """Sum of the distances of all classes and labels, and its gradient by the labels (K, n, *shape)."""
        if mixes_samples(net):
            calibrate(net, batches)
        compared, chunk = encoder_rows(net), images_per_pass(lesson)
        images, features = self._seen(lesson, state), state["features"]
        gradient, total = torch.empty_like(features), 0.0
        for label in range(len(lesson.classes)):
            real, steps = batches.draw(label)
            target = class_gradients(net, real, label, compared.parameters, chunk)
            rows = slice(label * lesson.ipc, (label + 1) * lesson.ipc)
            part = Labelled(
                images=apply(images[rows], steps),
                hard=lesson.hard[rows],
                mirrored=flips(steps, lesson.ipc),
                soft=None if lesson.soft is None else lesson.soft[rows].to(lesson.device),
                soft_weight=self.soft,
            )
            own = [self._labels(lesson, state, one, rows) for one in features[:, rows]]
            loss, gradient[:, rows] = label_gradients(net, part, target, compared, own, shortcut=self._takes_shortcut())
            total += loss
        return total, gradient

    def _read(self, lesson: Lesson, state: State, net: Net, *, trains: bool) -> tuple[Tensor, float]:
        """What the outer objective adds on labels alone, as its gradient (K, n, *shape), and their accuracy.

        lambda_task times the cross entropy of the class that the rest of a net reads, summed over classes; and the
        contrastive terms of the labels among themselves.
        """
        weight, layer = self.task_weight(lesson), self.form(lesson).layer
        found, right = torch.zeros_like(state["features"]), 0.0
        if not (weight or self.infonce or self.supcon):
            return found, right
        for k, labels in enumerate(state["features"]):
            leaf = labels.detach().requires_grad_(True)
            value = leaf.new_zeros(())
            if weight:
                reader = net if self.reads_by(trains=trains) == "current" else self.first_net(lesson, state, k)
                logits = reader.rest(self.as_maps(lesson, leaf), layer)
                right += float((logits.argmax(1) == lesson.hard).float().mean())
                value = value + weight * functional.cross_entropy(logits, lesson.hard, reduction="sum") / lesson.ipc
            if self.infonce:
                value = value + self.infonce * infonce(leaf, leaf)
            if self.supcon:
                value = value + self.supcon * supcon(leaf, leaf, lesson.hard)
            (found[k],) = torch.autograd.grad(value, leaf)
        return found, right / self.k

    def _train(self, lesson: Lesson, state: State, net: Net, optimizer: SGD, epochs: int, generator: Generator) -> None:
        """Train the net on images, classes and labels, without augmentation."""
        images, features = self._seen(lesson, state), state["features"]
        layer, mean = self.form(lesson).layer, features.mean(0)
        net.train()
        for _epoch in range(epochs):
            for chosen in torch.split(torch.randperm(len(images), generator=generator), self.batch_train):
                rows = chosen.to(images.device)
                if self.k_train == "random":
                    picked = torch.randint(self.k, chosen.shape, generator=generator).to(images.device)
                    labels = features[picked, rows]
                else:
                    labels = mean[rows]
                maps, logits = net.tap(images[rows], layer)
                soft = None if lesson.soft is None else lesson.soft.to(rows.device)[rows]
                part = Labelled(images[rows], lesson.hard[rows], None, soft, self.soft)
                optimizer.zero_grad()
                (part.loss(logits) + self._labels(lesson, state, labels, rows).loss(maps, None)).backward()
                optimizer.step()
