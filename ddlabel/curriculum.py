"""Which real images are used, by difficulty: PAD's FIEX schedule for experts, and a static filter for other methods.

"Prioritize Alignment in Dataset Distillation" (arXiv:2408.03360). FIEX feeds an expert the easy images first, adds the
hard ones until epoch AEE, and removes the easiest late in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .difficulty import order
from .errors import DataError, UsageError, suggest
from .options import build, opt

__all__ = ["PRESETS", "Fiex", "choose", "filtered", "parse_filter", "preset"]

PRESETS = ("pad", "pad-code")
"""Published settings: as the paper says them, and as its scripts set them."""
SIDES = ("hard", "easy")
ROUNDING = 1e-9
"""Added to a share of a class before it is rounded down, so that 0.29 * 100 is 29."""


@dataclass(frozen=True, kw_only=True)
class Fiex:
    """PAD's filter on what an expert sees; epoch e is the one that makes checkpoint e + 1.

    Differs from the authors' code in: shares are of the true size of each class, where the code takes 5000 for every
    data set, so that with 500 images per class it never leaves a hard image out and in the end removes all of them;
    a class keeps one image at least.
    """

    ir: float = opt(0.75, "IR: share of each class, easiest first, that the first epoch sees", min=0, max=1)
    aee: int = opt(20, "AEE: epoch by which all hard images have been added", min=0, max=100_000)
    r1_epoch: int = opt(40, "R1: last epoch before the easiest images are removed", min=0, max=100_000)
    r1: float = opt(0.10, "share of each class, easiest first, removed after epoch R1", min=0, below=1)
    r2_epoch: int = opt(60, "R2: last epoch of the first removal; no effect where r2 = r1", min=0, max=100_000)
    r2: float = opt(0.10, "share of each class, easiest first, removed after epoch R2", min=0, below=1)

    def span(self, epoch: int, count: int) -> tuple[int, int]:
        """The ranks that an epoch sees of a class of `count` images, easiest first: first, and one beyond the last.

        Adding goes before removal: where AEE is beyond R1 nothing is removed until AEE.
        """
        if count == 0:
            return 0, 0
        if epoch <= self.aee:
            share = self.ir + (1 - self.ir) * epoch / self.aee if self.aee else 1.0
            return 0, min(count, max(1, _floor(share, count)))
        if epoch <= self.r1_epoch:
            return 0, count
        removed = _floor(self.r1 if epoch <= self.r2_epoch else self.r2, count)
        return min(removed, count - 1), count

    def subset(self, epoch: int, orders: Sequence[Tensor]) -> Tensor:
        """What an epoch sees.

        Args:
            epoch: from 0.
            orders: per class its images by `difficulty.order`, easiest first, (n_c,) int64 each.

        Returns:
            Indices (m,) int64, ascending, so that an epoch of all images is the epoch of a run without curriculum.
        """
        spans = [self.span(epoch, len(members)) for members in orders]
        return (
            torch.cat([members[first:end] for members, (first, end) in zip(orders, spans, strict=True)]).sort().values
        )

    def images_seen(self, epochs: int, orders: Sequence[Tensor]) -> int:
        """Images of all epochs together: the cost of a run."""
        spans = [self.span(epoch, len(members)) for epoch in range(epochs) for members in orders]
        return sum(end - first for first, end in spans)

    def notes(self, epochs: int) -> tuple[str, ...]:
        """What a user should know of this curriculum in a run of `epochs`; epochs are absolute, as in the paper."""
        said = []
        if self.ir < 1 and epochs <= self.aee:
            said.append(
                f"the curriculum adds hard images until epoch {self.aee}, the run ends after {epochs}: the hardest are "
                f"never seen; lower --set aee or raise --epochs"
            )
        if max(self.r1, self.r2) > 0 and epochs <= max(self.aee, self.r1_epoch) + 1:
            said.append(
                f"the curriculum removes easy images after epoch {max(self.aee, self.r1_epoch)}, the run ends after "
                f"{epochs}: none are removed"
            )
        return tuple(said)


def preset(name: str, *, classes: int, side: int) -> Fiex:
    """The published curriculum that suits a data set.

    `pad`: IR 0.75, AEE 20 for up to 10 classes and 40 beyond, R1 40, or 60 for what is like Tiny-ImageNet (64 px or
    more, or more than 100 classes), a tenth removed. `pad-code`, by classes: up to 10, AEE 20; up to 100, AEE 30; both
    a tenth after epoch 40 and a fifth after 60; beyond, AEE 40 and a tenth after epoch 60.

    Args:
        name: of `PRESETS`.
        classes: how many.
        side: of the images, in pixels.

    Raises:
        UsageError: another name.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown curriculum '{name[:80]}'{suggest(name, PRESETS)}", field="curriculum")
    if name == "pad":
        late = side >= 64 or classes > 100
        start = 60 if late else 40
        return Fiex(ir=0.75, aee=20 if classes <= 10 else 40, r1_epoch=start, r1=0.10, r2_epoch=max(60, start), r2=0.10)
    if classes > 100:
        return Fiex(ir=0.75, aee=40, r1_epoch=60, r1=0.10, r2_epoch=60, r2=0.10)
    return Fiex(ir=0.75, aee=20 if classes <= 10 else 30, r1_epoch=40, r1=0.10, r2_epoch=60, r2=0.20)


def choose(name: str, settings: Mapping[str, Any], *, classes: int, side: int) -> Fiex:
    """A preset with some of its values replaced (`--set`, texts or typed values).

    Raises:
        UsageError: an unknown preset or option, a value out of bounds, r2_epoch before r1_epoch.
    """
    defaults = preset(name, classes=classes, side=side)
    start = build(Fiex, {key: value for key, value in settings.items() if key == "r1_epoch"}).r1_epoch
    known = {field: getattr(defaults, field) for field in Fiex.__dataclass_fields__}
    if "r1_epoch" in settings:
        known["r2_epoch"] = max(defaults.r2_epoch, start)
    made = build(Fiex, {**known, **settings})
    if made.r2_epoch < made.r1_epoch:
        raise UsageError(
            f"option 'r2_epoch' is {made.r2_epoch}, expected at least r1_epoch, {made.r1_epoch}", field="r2_epoch"
        )
    return made


def parse_filter(text: str) -> tuple[str, float]:
    """The side and the share of `SIDE:RATIO`.

    >>> parse_filter("hard:0.2")
    ('hard', 0.2)

    Raises:
        UsageError: not hard or easy, or a ratio outside [0, 1).
    """
    side, colon, ratio = text.partition(":")
    if not colon or side not in SIDES:
        near = suggest(side, SIDES) if colon else ""
        raise UsageError(
            f"option 'filter' is '{text[:80]}', expected hard:RATIO or easy:RATIO, such as hard:0.2{near}",
            field="filter",
        )
    try:
        share = float(ratio)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise UsageError(
            f"option 'filter' has ratio '{ratio[:80]}', expected a number >= 0 and < 1, such as 0.2", field="filter"
        )
    return side, share


def filtered(
    labels: Tensor, scores: Tensor, side: str, ratio: float, *, classes: Sequence[str], ipc: int = 1
) -> Tensor:
    """What is left of a training split without the hardest or easiest floor(ratio * n_c) images of each class.

    Args:
        labels: (n,) int64.
        scores: (n,) finite, higher is harder; equal ones by index, the lower index is the easier.
        side: hard or easy: what is dropped.
        ratio: in [0, 1).
        classes: names in label order.
        ipc: images per class that must be left.

    Returns:
        Indices (m,) int64, ascending; a class keeps one image at least.

    Raises:
        DataError: a score is not finite; a class is left with fewer than ipc images.
    """
    kept = []
    for name, members in zip(classes, order(scores, labels, len(classes)), strict=True):
        count = len(members)
        dropped = max(0, min(_floor(ratio, count), count - 1))
        if count - dropped < ipc:
            raise DataError(
                f"class '{name}' has {count} training images, {count - dropped} are left by the filter, --ipc asks for "
                f"{ipc}",
                field="filter",
                hint="lower the ratio of --filter, or --ipc",
            )
        kept.append(members[: count - dropped] if side == "hard" else members[dropped:])
    return torch.cat(kept).sort().values


def _floor(share: float, count: int) -> int:
    return math.floor(share * count + ROUNDING)
