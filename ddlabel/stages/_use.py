"""How one evaluation uses feature or attention labels: which, in what form, with what weights and adapter."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from .. import seeding
from ..bundle import Bundle
from ..data._dataset import DatasetInfo
from ..distilled import DistilledSet
from ..events import Event, OnEvent
from ..labels._privileged import PrivilegedSet, read_privileged
from ..nets._net import Net
from ..options import as_dict
from ..privileged._form import describe_shape
from ..privileged._objective import Norm, Objective, fit_norm
from ..privileged._scale import fresh_ratios, relative_lambda, scale_rows, scale_warning
from ..privileged._student import AdaptedForm, Adapter, PrivilegedLoss, TappedStudent, shrink, student_layer
from ._use_options import UseOptions, read_options

__all__ = ["Use", "resolve_use"]

MODEST = 0.2
"""A pull of labels as at the published weight of features, beside that of classes."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """Feature or attention labels as students of one evaluation use them."""

    stored: PrivilegedSet
    """As the bundle holds them."""
    objective: Objective
    options: UseOptions
    pooled: str | None
    """`as`: feature, spatial or channel; None for the form that is stored."""
    ratio: float | None = None
    """What lambda_reg was asked to be with `lambda_mode=relative`, once the weight is found."""

    @property
    def kind(self) -> str:
        """Feature or attention."""
        return self.stored.kind

    @property
    def is_assigned(self) -> bool:
        """Whether teachers gave the labels, so that they can give them to other images."""
        return self.stored.parameters.get("mode") == "assigned"

    @cached_property
    def labels(self) -> PrivilegedSet:
        """What students see: the mean label or all of them, pooled."""
        return self.of(self.stored)

    def of(self, stored: PrivilegedSet) -> PrivilegedSet:
        """Labels as students see them, of labels in the stored form.

        The mean comes first and then the pooling: they commute for `avg` (Fact B of DCPI), and not for `max`.
        """
        values, form = stored.values, stored.form
        if self.options.k_use == "mean" and values.shape[1] > 1:
            values = values.mean(dim=1, keepdim=True)
        if self.pooled is not None and self.pooled != (form.attention or "feature"):
            form = dataclasses.replace(form, attention=self.pooled)
            values = form.reduce(values.flatten(0, 1)).unflatten(0, values.shape[:2])
            form = dataclasses.replace(form, shape=tuple(values.shape[2:]))
        return dataclasses.replace(stored, values=values, form=form)

    @cached_property
    def norm(self) -> Norm | None:
        """What labels are normalised by for `zscore`: stored with them, else fitted to what students see."""
        if self.objective.norm != "zscore":
            return None
        stored = self.stored.norm
        return stored if stored is not None and self.labels.form == self.stored.form else fit_norm(self.labels.values)

    def student(self, net: Net, arch: str, info: DatasetInfo, generator: Generator) -> TappedStudent:
        """A net with its tap and a fresh adapter, on the CPU; raises as `student_layer` and `Adapter` do."""
        layer, source = self.tap(arch, info)
        return TappedStudent(net, layer, Adapter(source, self.labels.form, self.options.adapter, generator))

    def tap(self, arch: str, info: DatasetInfo) -> tuple[int, tuple[int, ...]]:
        """Which block of a student is compared with the labels, and its shape."""
        return student_layer(
            self.labels.form, arch, channels=info.channels, size=info.height, classes=len(info.classes)
        )

    def loss(self, base: Any, student: TappedStudent, device: torch.device) -> PrivilegedLoss:
        """The loss of a student: that of logits, and the objective of features."""
        goal = student.adapter.goal
        norm = self._norm_at(goal, device)
        return PrivilegedLoss(base, self.objective, norm, goal, self.options.label_aug == "hflip")

    def _norm_at(self, goal: tuple[int, ...], device: torch.device) -> Norm | None:
        """The norm in the shape that is compared."""
        if self.norm is None:
            return None
        mean, scale = (shrink(part[None], goal)[0].to(device) for part in (self.norm.mean, self.norm.scale))
        return Norm(mean, scale)

    def error(self, student: TappedStudent, labels: PrivilegedSet, images: Tensor) -> float:
        """Mean squared error of a trained student's features, (n, c, h, w) images without augmentation."""
        device, total = next(student.parameters()).device, 0.0
        student.eval()
        with torch.inference_mode():
            for index in torch.arange(len(images)).split(256):
                wanted = shrink(labels.values[index].mean(dim=1), student.adapter.goal).to(device)
                gap = student(images[index].to(device)).features - wanted
                total += float(gap.square().double().flatten(1).mean(dim=1).sum())
        return total / len(images)

    def check(self, archs: tuple[str, ...], info: DatasetInfo, on_event: OnEvent) -> None:
        """Refuse students that cannot be compared with the labels, and say how the others are.

        Raises:
            UsageError: terms of the objective that mean nothing for the labels; a layer that a student lacks; other
                shapes where no adapter is wanted.
        """
        form = self.labels.form
        self.objective.check(form)
        if self.options.label_aug == "hflip" and (not info.flip or form.attention == "channel"):
            why = "channel attention has no sides" if info.flip else f"images of '{info.name}' are not mirrored"
            on_event(Event(phase="features", message=f"label_aug=hflip changes nothing: {why}"))
        self._say_bytes(on_event)
        for arch in archs:
            layer, source = self.tap(arch, info)
            adapter = Adapter(source, form, self.options.adapter, torch.Generator())
            said = []
            if adapter.shrinks_labels:
                said.append(
                    f"labels are {describe_shape(form.shape)}, its layer {layer} gives {describe_shape(source)}: both "
                    f"are averaged down to {describe_shape(adapter.goal[1:])}"
                )
            if adapter.kind != "none":
                trained = f"{adapter.parameter_count} parameters, thrown away after training"
                said.append(f"adapter {adapter.kind} ({trained if adapter.parameter_count else 'never trained'})")
            if said:
                on_event(Event(phase="features", message=f"{arch}: {'; '.join(said)}"))

    def _say_bytes(self, on_event: OnEvent) -> None:
        """Labels that are pooled late are charged whole; say what they could take."""
        stored, pooled = self.stored, self.labels
        if pooled.form == stored.form:
            return
        whole = sum(record["bytes"] for record in stored.section.tensors.values())
        make = "augment-labels --kind attention" if self.is_assigned else "refine --method dcpi --labels attention"
        message = (
            f"as={self.pooled} pools labels that are stored, and charged, whole: {whole} bytes for "
            f"{describe_shape(stored.form.shape)} each; stored as {describe_shape(pooled.form.shape)} they take "
            f"at most {2 * pooled.values.numel()} in half precision: '{make} --set attention={self.pooled}'"
        )
        on_event(Event(phase="features", message=message))

    def weighed(
        self,
        distilled: DistilledSet,
        arch: str,
        info: DatasetInfo,
        *,
        device: torch.device,
        seed: int,
        on_event: OnEvent,
    ) -> Use:
        """With the weight that labels have in every student: lambda_reg itself or, if relative, what it leads to.

        With `lambda_mode=relative`, lambda_reg is how strongly labels should pull at fresh nets `arch`, beside classes.
        Otherwise it is said when at that weight labels hardly count, or outweigh the classes.

        Raises:
            UsageError: labels that do not pull at any weight; as `student_layer` and `Adapter` do.
        """
        asked = self.objective.lambda_reg
        if not asked:
            return self
        is_absolute, count = self.options.lambda_mode == "absolute", len(distilled.labels)
        rows = scale_rows(count, seed) if is_absolute else torch.arange(count)
        ratios = self._fresh_ratios(distilled, rows, arch, info, device, seed)
        if is_absolute:
            warning, median = scale_warning(asked, ratios), statistics.median(ratios)
            if warning is not None:
                advice = f"; --set lambda_reg={MODEST / median:.2g} makes it {MODEST:g} times" if median > 0 else ""
                on_event(Event(phase="features", message=warning.partition(";")[0] + advice))
            return self
        weight = relative_lambda(asked, ratios)
        message = f"lambda_reg is {weight:.3g}: there labels pull {asked:g} times as strongly as classes at new {arch}"
        on_event(Event(phase="features", message=message))
        return dataclasses.replace(self, objective=dataclasses.replace(self.objective, lambda_reg=weight), ratio=asked)

    def _fresh_ratios(
        self, distilled: DistilledSet, rows: Tensor, arch: str, info: DatasetInfo, device: torch.device, seed: int
    ) -> list[float]:
        """Of fresh nets of a student, on rows of a set: gradients of labels at lambda_reg 1 over those of classes."""
        layer, source = self.tap(arch, info)
        draws = seeding.generator(seed, "scale", "adapter")
        adapter = Adapter(source, self.labels.form, self.options.adapter, draws).to(device)
        return fresh_ratios(
            distilled.images[rows].to(device),
            distilled.labels[rows].to(device),
            shrink(self.labels.values[rows].mean(dim=1), adapter.goal).to(device),
            AdaptedForm.of(arch, layer, adapter),
            self.objective,
            self._norm_at(adapter.goal, device),
            classes=len(distilled.classes),
            seed=seed,
        )

    def record(self) -> dict[str, Any]:
        """The manifest's record of what was used and how."""
        said, form = self.stored.parameters, self.labels.form
        return {
            "kind": self.kind,
            "form": dataclasses.asdict(form) | {"shape": list(form.shape)},
            "mode": said.get("mode"),
            "matcher": said.get("matcher"),
            "objective": as_dict(self.objective),
            "lambda_ratio": self.ratio,
            "codec": dict(self.stored.section.codec or {}),
            "labels_per_image": self.stored.values.shape[1],
            "as": self.pooled,
            **as_dict(self.options),
        }


def resolve_use(bundle: Bundle, kind: str, settings: Mapping[str, Any]) -> Use:
    """Read feature or attention labels, with the weights that they were made for unless settings say others.

    Raises:
        UsageError: as `read_options` and `Objective.check` do.
        BundleError: as `read_privileged` does.
    """
    stored = read_privileged(bundle, kind)
    objective, options, pooled = read_options(stored, settings)
    use = Use(stored=stored, objective=objective, options=options, pooled=pooled)
    objective.check(use.labels.form)
    return use
