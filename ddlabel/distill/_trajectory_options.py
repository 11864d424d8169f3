"""The options of trajectory matching, as MTT, TESLA, FTD, AST, DATM and PAD share them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ..options import opt

__all__ = ["TrajectoryOptions", "preset"]


@dataclass(frozen=True, kw_only=True)
class TrajectoryOptions:
    """The options of the family, with MTT's values for CIFAR-10 at 10 images per class."""

    grows: ClassVar[bool] = False
    """Whether the start range grows unless told otherwise."""
    steps: int = opt(5_000, "outer steps, each of which trains one student", min=1, max=100_000_000)
    syn_steps: int = opt(30, "N: SGD steps of the student in each outer step", min=1, max=100_000)
    expert_epochs: int = opt(2, "M: expert epochs that the student's steps should cover", min=1, max=100_000)
    min_start_epoch: int = opt(0, "T-: earliest expert epoch that students start from", min=0)
    current_max_start_epoch: int | None = opt(
        None,
        "T: the start range ends before this epoch at first; auto is max_start_epoch, and half of it for datm and pad",
        min=1,
    )
    max_start_epoch: int = opt(20, "T+: the start range ends before this epoch", min=1)
    interval: int | None = opt(
        None, "outer steps after which the start range grows by an epoch; auto is 100, as datm and pad have it", min=1
    )
    batch_syn: int | None = opt(None, "b: distilled images per student step; auto takes all", min=1)
    lr_images: float = opt(100.0, "SGD step on images in model-input space", above=0)
    lr_lr: float = opt(1e-5, "SGD step on the student's step size", min=0)
    syn_lr: float = opt(0.001, "the student's step size at the start", above=0)
    momentum: float = opt(0.5, "momentum of images and step size", min=0, below=1)
    lr_param: str = opt("raw", "what lr_lr moves: the step size or its logarithm", choices=("raw", "log"))
    syn_lr_min: float | None = opt(None, "least step size of the student; auto is no limit", above=0)
    syn_lr_max: float | None = opt(None, "largest step size of the student; auto is no limit", above=0)
    init: str = opt(
        "real",
        "initial images: random real ones, noise, real ones that experts classify correctly (DATM), or those next to "
        "the k-means centres of an expert's logits (AST)",
        choices=("real", "noise", "correct", "kmeans"),
    )
    augment: str = opt("dsa", "augmentation of the student's batches", choices=("dsa", "none"))
    unroll: str = opt(
        "adjoint",
        "gradient through the student's steps: adjoint (exact, constant memory), full, or tesla (biased)",
        choices=("adjoint", "full", "tesla"),
    )
    tesla_scale: float = opt(1.0, "with unroll=tesla: 1 as in the formula, 0.5 as in the published code", above=0)
    teacher_label: bool = opt(False, "label the images with the target checkpoint in every step (TESLA)")
    microbatch: int | None = opt(None, "distilled images in one graph inside a student step; auto chooses", min=1)
    threshold: float | None = opt(None, "skip the update of an outer step whose loss is above; auto never", above=0)
    mask: str = opt(
        "depth",
        "which parameters mask_shallow drops: the shallowest (depth), those with the least error (loss), the deepest "
        "(deep), or none",
        choices=("depth", "loss", "deep", "none"),
    )
    mask_shallow: float = opt(0.0, "share of the parameters that are not matched (PAD's FIEM)", min=0, below=1)
    ema: float = opt(
        0.0, "decay of the average of images that is the result (FTD); 0 is the last images", min=0, below=1
    )
    soft_labels: bool = opt(False, "learn soft labels, as logits that experts initialise (DATM)")
    lr_label: float = opt(2.0, "SGD step on the logits of soft labels", min=0)
    momentum_label: float = opt(0.9, "momentum of the soft labels", min=0, below=1)
    perturb: float = opt(0.0, "relative noise on the student's initial convolution weights (AST takes 1)", min=0)
    inner_momentum: float = opt(0.0, "momentum of the student (AST takes 0.9)", min=0, below=1)
    balanced: bool = opt(False, "scale the student's loss by its start epoch (AST)")
    intermediate: str = opt(
        "none",
        "also match the expert epochs in between: with weight 1 (unit), or growing towards the last (adaptive) (AST)",
        choices=("none", "unit", "adaptive"),
    )

    def first_upper(self) -> int:
        """T."""
        if self.current_max_start_epoch is not None:
            return self.current_max_start_epoch
        last = self.max_start_epoch
        return max(self.min_start_epoch + 1, last // 2) if self.grows else last

    def contradictions(self, epochs: range, arch: str, *, mixes: bool) -> list[str]:
        """What is wrong with the options: with those of each other, and with what the experts recorded.

        Args:
            epochs: that the experts recorded.
            arch: their net, for messages.
            mixes: whether its norms mix samples.
        """
        problems = []
        first, current, last = self.min_start_epoch, self.first_upper(), self.max_start_epoch
        if not first < current <= last:
            said = f"current_max_start_epoch {current}, " if current != last else ""
            problems.append(
                f"start epochs are min_start_epoch {first}, {said}max_start_epoch {last}, expected them to ascend"
            )
        if first < epochs[0] or last - 1 + self.expert_epochs > epochs[-1]:
            problems.append(
                f"start epochs {first} to {last - 1} and expert_epochs {self.expert_epochs} need epochs {first} to "
                f"{last - 1 + self.expert_epochs}, the experts recorded {epochs[0]} to {epochs[-1]}"
            )
        if self.interval is not None and current == last:
            problems.append(
                f"interval is {self.interval} and the start range ends at {last} from the beginning, expected "
                "current_max_start_epoch below max_start_epoch"
            )
        low, high = self.syn_lr_min or 0.0, self.syn_lr_max or math.inf
        if not low <= self.syn_lr <= high:
            problems.append(f"syn_lr is {self.syn_lr:g}, expected between syn_lr_min {low:g} and syn_lr_max {high:g}")
        if self.mask_shallow and self.mask == "none":
            problems.append(f"mask_shallow is {self.mask_shallow:g} and mask is 'none', expected one of them")
        if not self.mask_shallow and self.mask in {"loss", "deep"}:
            problems.append(f"mask is '{self.mask}' and mask_shallow 0, expected a share to leave out")
        if self.tesla_scale != 1 and self.unroll != "tesla":
            problems.append(f"tesla_scale is {self.tesla_scale:g} and unroll '{self.unroll}', expected unroll=tesla")
        if self.unroll == "tesla" and (self.inner_momentum or self.intermediate != "none"):
            problems.append("unroll is 'tesla' with inner_momentum or intermediate matching, expected adjoint or full")
        if self.microbatch is not None and mixes:
            problems.append(
                f"option 'microbatch' is {self.microbatch}, net '{arch}' has batch norm and needs whole batches"
            )
        if self.teacher_label and mixes:
            problems.append(
                f"teacher_label asks net '{arch}' with batch norm to label, expected a net whose trajectories "
                "say everything: running statistics are not matched"
            )
        if self.soft_labels and self.teacher_label:
            problems.append("soft_labels and teacher_label are both on, expected one of them")
        if self.intermediate != "none" and self.syn_steps < self.expert_epochs:
            problems.append(f"syn_steps {self.syn_steps} is below expert_epochs {self.expert_epochs}")
        return problems


def preset(name: str, default: Any) -> Any:
    """The option of `TrajectoryOptions` of that name with another default."""
    base = next(field for field in dataclasses.fields(TrajectoryOptions) if field.name == name)
    return dataclasses.field(default=default, metadata=base.metadata)
