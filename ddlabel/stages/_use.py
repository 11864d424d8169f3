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

from ..bundle import Bundle
from ..data._dataset import DatasetInfo
from ..distilled import DistilledSet
from ..errors import UsageError
from ..events import Event, OnEvent
from ..labels._privileged import PrivilegedSet, objective_of, read_privileged
from ..nets._net import Net
from ..options import OptionDoc, as_dict, build_many, describe, opt
from ..privileged._form import ATTENTIONS, describe_shape
from ..privileged._objective import Norm, Objective, fit_norm
from ..privileged._scale import fresh_ratios, scale_warning
from ..privileged._student import (
    ADAPTERS,
    Adapter,
    PrivilegedLoss,
    TappedStudent,
    shrink,
    student_layer,
)

__all__ = [
    "USE_OPTIONS",
    "Use",
    "UseOptions",
    "describe_use",
    "resolve_use",
]

AS = "as"
"""The option that pools labels late; a keyword of Python, so no field."""
FORMS = ("feature", *ATTENTIONS)
MODEST = 0.2
"""A pull of labels as at the published weight of features, beside that of classes."""
MOST_IMAGES = 1000
"""Images, about, whose gradients are compared before training."""


@dataclass(frozen=True, kw_only=True)
class UseOptions:
    """How students use labels, beside the weights of the `Objective`; and `as`, one of feature, spatial, channel."""

    adapter: str = opt(
        "auto",
        "between features of a student and labels of another shape: auto (trained, where shapes differ), learned "
        "(always), orthogonal (drawn, never trained) or none; thrown away after training",
        choices=ADAPTERS,
    )
    k_use: str = opt(
        "mean", "of several labels per image: their mean, or a random one for each sample", choices=("mean", "random")
    )
    label_aug: str = opt(
        "none", "hflip mirrors the labels of images that the augmentation mirrors", choices=("none", "hflip")
    )


AS_DOC = OptionDoc(
    name=AS,
    type="text or auto",
    default=None,
    required=False,
    help="pools feature labels late, students' features alike: feature, spatial or channel; auto is as they are stored",
    bounds="one of " + ", ".join(FORMS),
)
USE_OPTIONS = frozenset({AS, *(field.name for cls in (Objective, UseOptions) for field in dataclasses.fields(cls))})
"""What `--set` may say of feature and attention labels."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """Feature or attention labels as students of one evaluation use them."""

    stored: PrivilegedSet
    """As the bundle holds them."""
    objective: Objective
    options: UseOptions
    pooled: str | None
    """`as`: feature, spatial or channel; None for the form that is stored."""

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
        goal, norm = student.adapter.goal, self.norm
        if norm is not None:
            parts = (shrink(part[None], goal)[0].to(device) for part in (norm.mean, norm.scale))
            norm = Norm(*parts)
        return PrivilegedLoss(base, self.objective, norm, goal, self.options.label_aug == "hflip")

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

    def check_scale(self, distilled: DistilledSet, device: torch.device, seed: int, on_event: OnEvent) -> None:
        """Say when labels hardly count beside classes, or drown them: gradient ratios of fresh nets of the labels."""
        if not self.objective.lambda_reg:
            return
        labels, rows = self.labels, torch.arange(0, len(distilled.labels), 1 + len(distilled.labels) // MOST_IMAGES)
        ratios = fresh_ratios(
            distilled.images[rows].to(device),
            distilled.labels[rows].to(device),
            labels.values[rows].mean(dim=1).to(device),
            labels.form,
            self.objective,
            self.norm,
            classes=len(distilled.classes),
            seed=seed,
        )
        warning, median = scale_warning(self.objective.lambda_reg, ratios), statistics.median(ratios)
        if warning is not None:
            advice = f"; --set lambda_reg={MODEST / median:.2g} makes it {MODEST:g} times" if median > 0 else ""
            on_event(Event(phase="features", message=warning.partition(";")[0] + advice))

    def record(self) -> dict[str, Any]:
        """The manifest's record of what was used and how."""
        said, form = self.stored.parameters, self.labels.form
        return {
            "kind": self.kind,
            "form": dataclasses.asdict(form) | {"shape": list(form.shape)},
            "mode": said.get("mode"),
            "matcher": said.get("matcher"),
            "objective": as_dict(self.objective),
            "codec": dict(self.stored.section.codec or {}),
            "labels_per_image": self.stored.values.shape[1],
            "as": self.pooled,
            **as_dict(self.options),
        }


def describe_use() -> list[OptionDoc]:
    """What `evaluate --set` says of feature and attention labels beside the weights of the `Objective`."""
    return [*describe(UseOptions), AS_DOC]


def resolve_use(bundle: Bundle, kind: str, settings: Mapping[str, Any]) -> Use:
    """Read feature or attention labels, with the weights that they were made for unless settings say others.

    Raises:
        UsageError: impossible options, or such as the labels do not have.
        BundleError: as `read_privileged` does.
    """
    stored = read_privileged(bundle, kind)
    given = {name: value for name, value in settings.items() if name in USE_OPTIONS and name != AS}
    objective, options = build_many([Objective, UseOptions], {**as_dict(objective_of(stored.parameters)), **given})
    pooled = settings.get(AS)
    pooled = None if pooled == "auto" else pooled
    problems = []
    if pooled is not None and pooled not in FORMS:
        problems.append(f"option 'as' is '{str(pooled)[:40]}', expected one of {', '.join(FORMS)}")
    elif pooled is not None and stored.form.attention not in {None, pooled}:
        problems.append(
            f"option 'as' is '{pooled}', the labels are pooled already ({stored.form.attention}); only feature labels "
            "can be pooled late"
        )
    if options.k_use == "random" and stored.values.shape[1] == 1:
        problems.append("option 'k_use' is 'random', the bundle holds one label per image")
    if problems:
        raise UsageError.collect(problems)
    use = Use(stored=stored, objective=objective, options=options, pooled=pooled)
    objective.check(use.labels.form)
    return use
