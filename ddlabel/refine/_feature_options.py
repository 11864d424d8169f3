"""The options that all ways to learn feature and attention labels share, and what follows from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..distill._method import Problem, State
from ..distill._real import net_on_meta
from ..errors import BundleError, UsageError
from ..nets._net import Net
from ..options import opt
from ..privileged._form import LAST, Form, make_form
from ..privileged._objective import Norm, Objective

__all__ = ["FeatureOptions", "Lesson", "images_per_class", "same_as"]

OF_IMAGES = ("lr_images", "momentum", "lr_lr", "lr_param", "lr_label", "momentum_label")
"""Options of the matchers that move images, and with them the step size and the soft labels. Published settings name
them beside images that stay, so that they are not refused there."""


@dataclass(frozen=True, kw_only=True)
class Lesson(Problem):
    """Real data, and the distilled images whose labels are learned: class-major, `ipc` of each class."""

    images: Tensor
    """(n, c, h, w) float32 in model-input space."""
    kind: str
    """`feature` or `attention`."""
    logits: Tensor | None = None
    """(n, k) soft labels that were learned with the images."""
    lr: float | None = None
    """Step size for students that was learned with the images."""
    soft: Tensor | None = None
    """(n, k) log-probabilities of the bundle's soft labels, for the term `soft`."""
    nets: tuple[Net, ...] = ()
    """Trained nets whose features the labels start from, for `init=teacher`."""

    @property
    def hard(self) -> Tensor:
        """(n,) int64 classes of the distilled images, on the device."""
        return torch.arange(len(self.classes), device=self.device).repeat_interleave(self.ipc)


def images_per_class(labels: Tensor, classes: int, name: str) -> int:
    """Images of each class in a distilled set (n,) that is class-major.

    Raises:
        BundleError: classes of different sizes, or in another order.
    """
    ipc = len(labels) // classes
    if not ipc or not torch.equal(labels.cpu(), torch.arange(classes).repeat_interleave(ipc)):
        raise BundleError(
            f"{name}: its images are not {max(ipc, 1)} of each class in order of class, which learning labels needs",
            field="labels",
            hint="use a bundle of 'ddlabel distill' with equal classes",
        )
    return ipc


def same_as(record: type[Any], name: str) -> Any:
    """The option of another record of that name, with its default, help and bounds."""
    field = next(field for field in dataclasses.fields(record) if field.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which labels are learned, of what they are made, and what moves them."""

    matcher: ClassVar[str]
    """As the section records it."""
    feature_rate: ClassVar[float | None] = None
    """Published SGD step on labels; None where none fits and Adam is the default."""
    layer: str = opt(LAST, "block whose output the labels are of: last, or a number from 1")
    attention: str | None = opt(
        None, "attention labels: spatial (a map) or channel; auto is spatial", choices=("spatial", "channel")
    )
    pool: str | None = opt(None, "attention labels: how they are pooled; auto is avg", choices=("avg", "max"))
    k: int = opt(1, "K: labels of each image, each begun by a net of its own", min=1, max=1000)
    store: str = opt("mean", "of K labels: their mean, or all of them", choices=("mean", "all"))
    k_train: str = opt(
        "mean", "which of K labels a net trains on: their mean, or a random one per image", choices=("mean", "random")
    )
    init: str = opt(
        "one-epoch",
        "first labels: features of new nets after one epoch on all real images, N(0, 1) noise, or those of --teacher",
        choices=("one-epoch", "noise", "teacher"),
    )
    init_checkpoint: str = opt(LAST, "with init=teacher: the kept epoch that first labels are of, last or a number")
    lambda_reg: float = same_as(Objective, "lambda_reg")
    lambda_mode: str = opt(
        "absolute",
        "what lambda_reg is: a weight, or the length of the labels' gradient relative to that of the classes in new "
        "nets, which the weight follows from",
        choices=("absolute", "relative"),
    )
    metric: str = same_as(Objective, "metric")
    norm: str = same_as(Objective, "norm")
    ce: float = same_as(Objective, "ce")
    infonce: float = opt(
        Objective.infonce, "weight of InfoNCE between features and labels of a batch; dc matches class by class", min=0
    )
    supcon: float = opt(
        Objective.supcon, "weight of the supervised contrastive term of a batch; dc matches class by class", min=0
    )
    soft: float = opt(0.0, "weight of the KL divergence to the bundle's soft labels in the net's loss", min=0)
    lambda_task: float | None = opt(
        None, "weight of the class that a net reads from its label; auto is 0.01, and 0 for attention labels", min=0
    )
    task_head: str = opt(
        "auto",
        "the net that lambda_task reads labels by: the current one, or the one that gave the first labels; auto is "
        "init where the current one is never trained",
        choices=("auto", "current", "init"),
    )
    tune_images: bool = opt(False, "move the images too, as the matcher alone would")
    nonneg: bool = opt(False, "clamp labels at 0 after every step, as features after a ReLU are")
    feat_opt: str = opt(
        "auto", "optimiser of labels; auto is sgd for dc and adam for mtt, datm", choices=("auto", "sgd", "adam")
    )
    lr_feat: float | None = opt(
        None, "step on labels; auto is 0.1 with sgd (dc), and 0.01 of the first labels' rms with adam", above=0
    )
    momentum_feat: float = opt(0.5, "momentum of labels with sgd", min=0, below=1)
    label_aug: str = opt(
        "none", "hflip: mirror labels where the augmentation mirrors their image", choices=("none", "hflip")
    )

    # what follows from the options

    def form(self, lesson: Lesson) -> Form:
        """Of one label; raises UsageError for a layer that the net does not have."""
        return make_form(
            lesson.arch,
            channels=lesson.pixels.shape[1],
            size=lesson.pixels.shape[2],
            classes=len(lesson.classes),
            layer=self.layer,
            attention=(self.attention or "spatial") if lesson.kind == "attention" else None,
            pool=self.pool or "avg",
        )

    @property
    def terms(self) -> Objective:
        """The objective as the options say it, `lambda_reg` not yet resolved."""
        return Objective(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Objective)})

    def objective(self, state: State) -> Objective:
        """The objective with the weight that `lambda_mode` led to."""
        return dataclasses.replace(self.terms, lambda_reg=float(state["features_lambda"]))

    def norm_of(self, state: State) -> Norm | None:
        """Fixed with the first labels, for `zscore`."""
        return Norm(state["norm_mean"], state["norm_scale"]) if self.norm == "zscore" else None

    def task_weight(self, lesson: Lesson) -> float:
        """`lambda_task`."""
        return (0.01 if lesson.kind == "feature" else 0.0) if self.lambda_task is None else self.lambda_task

    def reads_by(self, *, trains: bool) -> str:
        """`current` or `init`: the net that reads labels.

        Args:
            trains: whether the current net is ever trained before it reads.
        """
        if self.task_head != "auto":
            return self.task_head
        return "current" if trains or self.init == "noise" else "init"

    def uses_adam(self) -> bool:
        """Whether labels are moved by Adam."""
        return self.feat_opt == "adam" or (self.feat_opt == "auto" and self.feature_rate is None)

    def changed(self, *names: str) -> tuple[str, ...]:
        """Those of the options that this record has, and whose value is not their default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return tuple(name for name in names if name in defaults and getattr(self, name) != defaults[name])

    # checks and needs

    def check_labels(self, lesson: Lesson, *, mirrors: bool) -> None:
        """Refuse options that cannot work together, or would do nothing.

        Args:
            lesson: images and kind of label.
            mirrors: whether the augmentation can mirror images at all.

        Raises:
            UsageError: all problems in one error.
        """
        self.terms.check(self.form(lesson))
        problems = [*self._of_kind(lesson), *self._without_effect(lesson)]
        if self.label_aug == "hflip" and not mirrors:
            problems.append("label_aug is 'hflip', but no image is mirrored")
        if self.init == "teacher" and len(lesson.nets) != self.k:
            problems.append(
                f"init is 'teacher' and k {self.k}, expected as many nets by --teacher, not {len(lesson.nets)}"
            )
        if self.init == "noise" and self.task_head == "init" and self.task_weight(lesson):
            problems.append("task_head is 'init' and init 'noise', which no net gave")
        if self.soft and lesson.soft is None:
            problems.append(
                f"soft is {self.soft:g}, but the bundle has no soft labels: 'augment-labels --kind soft' adds them"
            )
        if not self.uses_adam() and self.lr_feat is None and self.feature_rate is None:
            problems.append(f"feat_opt is 'sgd', for which {self.matcher} has no step that suits: expected lr_feat")
        if problems:
            raise UsageError.collect(problems)

    def _of_kind(self, lesson: Lesson) -> list[str]:
        """What labels of this kind do not take."""
        if lesson.kind == "feature":
            given = self.changed("attention", "pool")
            return [f"{name} is '{getattr(self, name)}', but --labels feature are not pooled" for name in given]
        problems = []
        if self.task_weight(lesson):
            problems.append(
                f"lambda_task is {self.task_weight(lesson):g}: a net reads classes from whole features, attention "
                "labels are pooled; expected 0"
            )
        if self.label_aug == "hflip" and self.attention == "channel":
            problems.append("label_aug is 'hflip', which channel attention does not notice")
        return problems

    def _without_effect(self, lesson: Lesson) -> list[str]:
        """Options that would do nothing, and a run in which nothing would."""
        problems = []
        if not (self.lambda_reg or self.ce or self.infonce or self.supcon or self.task_weight(lesson)):
            problems.append(
                "lambda_reg is 0, and so is every other weight: nothing would move the labels; expected lambda_reg "
                "above 0 ('augment-labels' stores labels as a net gives them)"
            )
        if self.lambda_mode == "relative" and not self.lambda_reg:
            problems.append("lambda_mode is 'relative' and lambda_reg 0, a ratio above 0 was expected")
        if self.k == 1:
            problems += [
                f"{name} is '{getattr(self, name)}', but k is 1: one label of each image"
                for name in self.changed("k_train", "store")
            ]
        if self.uses_adam() and self.changed("momentum_feat"):
            problems.append("momentum_feat is for sgd, labels are moved by adam: expected feat_opt=sgd")
        if self.init != "teacher" and self.changed("init_checkpoint"):
            problems.append(f"init_checkpoint is '{self.init_checkpoint}', but init is '{self.init}', not teacher")
        return problems

    def label_notes(self, lesson: Lesson) -> tuple[str, ...]:
        """What a user should know of the labels before the first step."""
        found = []
        if self.init == "one-epoch":
            found.append(f"first labels: training {self.k} net{'s' * (self.k > 1)} for an epoch on all real images")
        if lesson.kind == "attention" and self.lambda_task is None:
            found.append("lambda_task is 0: a net reads classes from whole features, not from attention labels")
        idle = () if self.tune_images else self.changed(*OF_IMAGES)
        if idle:
            found.append(f"images stay as they are, so that these change nothing: {', '.join(idle)}")
        return tuple(found)

    def label_bytes(self, lesson: Lesson) -> int:
        """Labels, the first ones, two slots of the optimiser, the gradient and the next labels; the first nets."""
        numbers = self.k * len(lesson.images) * torch.Size(self.form(lesson).shape).numel()
        nets = (
            0 if self.init == "noise" else self.k * sum(tensor.numel() for tensor in net_on_meta(lesson).parameters())
        )
        return 4 * (7 * numbers + nets)
