"""Teachers: nets trained on real data, their checkpoints in a bundle, and what they say of images."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import seeding
from .bundle import Bundle, NewSection
from .data._stored_pixels import Pixels
from .errors import BundleError, UsageError
from .nets._net import Net, build
from .preprocess import data_of, read_space

__all__ = ["Checkpoint", "Teacher", "checkpoint_section", "combine", "share_of_best"]

BUDGETS = (1, 10, 50, 100)
SHARES = {
    10: (0.732, 0.851, 0.979, 1.0),
    100: (0.628, 0.903, 1.0, 1.0),
    200: (0.495, 0.902, 0.982, 1.0),
    1000: (0.275, 0.570, 0.970, 1.0),
}
"""By number of classes: accuracy of the best labeler at 1, 10, 50 and 100 images per class as a share of that at 100.

From CIFAR-10, CIFAR-100 and Tiny-ImageNet with ConvNets and ImageNet-1K with ResNet-18 in "A Label is Worth a Thousand
Images in Dataset Distillation" (arXiv:2406.10485), Table 7. Shares carry over to other nets, epochs do not.
"""
TABLED = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "imagenet": 1000}
"""Data sets of that table by the names of their bundles, and their numbers of classes."""
GUIDED_IPC = (5, 30, 75)
"""Images per class up to which a teacher that guides RDED takes the first, second and third column, beyond the last."""
EARLY_IPC, LATE_IPC = 2, 50
"""Where the table has no row: images per class up to which that teacher is early, and from which on it is the last."""


@dataclass(frozen=True)
class Checkpoint:
    """One kept epoch of one net."""

    section: str
    """Its section, `teacher.<member>.<epoch>`."""
    member: int
    epoch: int
    arch: str
    """Canonical name of the net."""
    accuracy: Mapping[str, float | None]
    """Fractions by split: `validation`, `test`; None where the split is empty."""


def checkpoint_section(net: Net, checkpoint: Checkpoint, *, seed: int) -> NewSection:
    """Parameters and buffers of a net as section `teacher.<member>.<epoch>`, each tensor a copy."""
    tensors = {f"{checkpoint.section}.{name}": value.detach().clone() for name, value in net.state_dict().items()}
    parameters: dict[str, Any] = {
        "arch": checkpoint.arch,
        "member": checkpoint.member,
        "epoch": checkpoint.epoch,
        "seed": seed,
        "accuracy": dict(checkpoint.accuracy),
    }
    return NewSection(checkpoint.section, "teacher", tensors, parameters=parameters)


class Teacher:
    """The nets of a teacher bundle, loaded one at a time.

    Raises:
        BundleError: the bundle is not a teacher.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.kind != "teacher":
            raise BundleError(
                f"{bundle.name}: kind '{bundle.kind}', expected a teacher bundle",
                field="kind",
                hint="pass a file that 'ddlabel train-teacher' wrote",
            )
        self.bundle = bundle
        self.space = read_space(bundle)
        self.checkpoints = tuple(_checkpoints(bundle))

    def select(self, which: str) -> tuple[Checkpoint, ...]:
        """The checkpoints named by an epoch, `last` (of every member) or `all`.

        Raises:
            UsageError: no checkpoint of that epoch, listing those kept.
        """
        if which == "all":
            return self.checkpoints
        if "," in which or which.startswith("teacher."):
            return self._named(which.split(","))
        epochs = sorted({checkpoint.epoch for checkpoint in self.checkpoints})
        wanted = str(epochs[-1]) if which == "last" else which
        chosen = tuple(checkpoint for checkpoint in self.checkpoints if str(checkpoint.epoch) == wanted)
        if not chosen:
            kept = ", ".join(str(epoch) for epoch in epochs)
            raise UsageError(
                f"checkpoint '{which}' is not in {self.bundle.name}, expected 'last', 'all' or one of the kept epochs "
                f"{kept}",
                field="checkpoint",
            )
        return chosen

    def _named(self, sections: Sequence[str]) -> tuple[Checkpoint, ...]:
        """The checkpoints of these sections, in their order."""
        by_name = {checkpoint.section: checkpoint for checkpoint in self.checkpoints}
        missing = [name for name in sections if name not in by_name]
        if missing:
            raise UsageError(f"{self.bundle.name} has no checkpoint '{missing[0][:80]}'", field="checkpoint")
        return tuple(by_name[name] for name in sections)

    def epoch_for(self, ipc: int) -> int:
        """The earliest kept epoch whose held-out accuracy reaches the share of the best one that suits a budget.

        Labels of early epochs have more entropy and win where there are few images; `share_of_best` says how early.

        Args:
            ipc: images per class.

        Raises:
            UsageError: the teacher was trained without a held-out part, so that only test data could choose.
        """
        means = self._held_out()
        wanted = share_of_best(ipc, len(data_of(self.bundle)["classes"])) * max(means.values())
        return min(epoch for epoch, mean in means.items() if mean >= wanted - 1e-9)

    def guided_epoch(self, ipc: int) -> int:
        """The kept epoch that guides RDED's crops and labels, as DCPI wants it: early for few images, late for many.

        For CIFAR-10, CIFAR-100, Tiny-ImageNet and ImageNet-1K, known by name and number of classes, the earliest
        trained epoch whose held-out accuracy is the share of the best one's in one column of `SHARES`: that of 1 image
        per class up to 5, of 10 up to 30, of 50 up to 75, else of 100.

        For others, up to 2 images per class the earliest trained one whose held-out accuracy is half of the last one's;
        from 50 on the last one; between them the kept epoch nearest to the geometric interpolation in log(ipc), the
        earlier of two.

        Differs from the published table in: it gives epochs of its own nets and schedules, which other teachers do not
        share; their accuracies are carried over as shares, ImageNet-1K's from ResNet-18. DCPI (arXiv:2410.01611) has no
        rule: columns, and all of what is done for other data sets, are our reading.

        Args:
            ipc: images per class.

        Raises:
            UsageError: no trained epoch was kept; a teacher without a held-out part, except for other data sets from 50
                images per class on.
        """
        trained = sorted({checkpoint.epoch for checkpoint in self.checkpoints if checkpoint.epoch})
        if not trained:
            raise UsageError(f"{self.bundle.name} kept no trained epoch", field="checkpoint")
        data = data_of(self.bundle)
        classes, last = len(data["classes"]), trained[-1]
        if TABLED.get(data["name"]) == classes:
            means = self._held_out()
            wanted = SHARES[classes][bisect_left(GUIDED_IPC, ipc)] * max(means[epoch] for epoch in trained)
            return next(epoch for epoch in trained if means[epoch] >= wanted - 1e-9)
        if ipc >= LATE_IPC:
            return last
        means = self._held_out()
        early = next(epoch for epoch in trained if means[epoch] >= means[last] / 2)
        part = math.log(max(ipc, EARLY_IPC) / EARLY_IPC) / math.log(LATE_IPC / EARLY_IPC)
        wanted = (1 - part) * math.log(early) + part * math.log(last)
        return min(trained, key=lambda epoch: (round(abs(math.log(epoch) - wanted), 9), epoch))

    def _held_out(self) -> dict[int, float]:
        """Mean held-out accuracy of the nets of every kept epoch."""
        scores: dict[int, list[float]] = {}
        for checkpoint in self.checkpoints:
            value = checkpoint.accuracy.get("validation")
            if value is None:
                raise UsageError(
                    f"{self.bundle.name}: no held-out accuracies to choose a checkpoint by",
                    field="checkpoint",
                    hint="train the teacher with --validation above 0, or name an epoch",
                )
            scores.setdefault(checkpoint.epoch, []).append(value)
        return {epoch: statistics.fmean(values) for epoch, values in scores.items()}

    def net(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Net:
        """One net with its stored parameters and buffers, frozen and in eval mode."""
        data = data_of(self.bundle)
        net = build(
            checkpoint.arch,
            channels=data["channels"],
            size=data["height"],
            classes=len(data["classes"]),
            generator=seeding.generator(0, "teacher"),
        )
        state = {name: self.bundle.tensor(f"{checkpoint.section}.{name}") for name in net.state_dict()}
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            raise BundleError(
                f"{self.bundle.name}: section '{checkpoint.section}' does not fit the net '{checkpoint.arch}'",
                field=checkpoint.section,
            ) from error
        return net.to(device).eval().requires_grad_(False)

    def features(self, pixels: Pixels, *, which: str = "last", device: torch.device | str = "cpu") -> Tensor:
        """Embeddings of uint8 pixels (n, c, h, w) by the first chosen net: (n, f) float32 on the CPU."""
        return self.outputs(pixels, which=which, device=device)[1]

    def outputs(
        self, pixels: Pixels, *, which: str = "last", device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, k) and embeddings (n, f) of uint8 pixels (n, c, h, w) by the first chosen net, on the CPU."""
        net = self.net(self.select(which)[0], device)
        logits, features = [], []
        with torch.inference_mode():
            for chunk in pixels.split(256):
                features.append(net.embed(self.space.encode(chunk).to(device)))
                logits.append(net.classify(features[-1]).cpu())
                features[-1] = features[-1].cpu()
        return torch.cat(logits), torch.cat(features)


def share_of_best(ipc: int, classes: int) -> float:
    """The held-out accuracy that a labeler should have, as a share of the best one's, in (0, 1].

    Linear in log(ipc) between the published budgets and constant beyond them; the published row with the nearest
    number of classes, on a log scale.

    >>> share_of_best(10, 10), share_of_best(100, 1000), round(share_of_best(22, 10), 3)
    (0.851, 1.0, 0.914)
    """
    row = SHARES[min(SHARES, key=lambda known: abs(math.log(known / classes)))]
    place = min(max(ipc, BUDGETS[0]), BUDGETS[-1])
    upper = next(index for index, budget in enumerate(BUDGETS) if place <= budget)
    if place == BUDGETS[upper]:
        return row[upper]
    low, high = BUDGETS[upper - 1], BUDGETS[upper]
    part = math.log(place / low) / math.log(high / low)
    return row[upper - 1] + part * (row[upper] - row[upper - 1])


def combine(logits: Sequence[Tensor], how: str) -> Tensor:
    """Labels of several teachers as one, (b, k).

    Args:
        logits: (b, k) of each teacher.
        how: `mean`, or `equal-norm`: each sample's logits are scaled to the mean of the teachers' norms first, so that
            a teacher with large logits does not outvote the others (G-VBSM, arXiv:2311.17950).

    Differs from the authors' code in: norms are those of the sample, where the code takes the batch's, which makes a
    label depend on the images beside it.
    """
    stacked = torch.stack(list(logits))
    if how == "equal-norm":
        norms = stacked.norm(dim=2, keepdim=True)
        stacked = stacked / norms.clamp(min=torch.finfo(stacked.dtype).tiny) * norms.mean(dim=0, keepdim=True)
    return stacked.mean(dim=0)


def _checkpoints(bundle: Bundle) -> Iterator[Checkpoint]:
    for section in bundle.sections("teacher"):
        try:
            parameters = section.parameters
            yield Checkpoint(
                section=section.name,
                member=int(parameters["member"]),
                epoch=int(parameters["epoch"]),
                arch=str(parameters["arch"]),
                accuracy=dict(parameters["accuracy"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.name}: section '{section.name}' does not say its member, epoch, arch and accuracy",
                field=section.name,
            ) from error
