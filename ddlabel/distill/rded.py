"""RDED: mosaics of the crops a trained net finds most realistic (Sun et al., CVPR 2024, arXiv:2312.03526)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from .. import seeding
from ..errors import DataError, UsageError
from ..options import opt
from ..selection import random_order
from ._crops import cut, random_squares
from ._method import Distilled, Problem, State
from ._mosaic import cell_sides, centred, in_cells, stitched
from ._real import class_labels
from ._scoring import Scorer, images_at_once, largest_map

__all__ = ["METHOD", "Rded", "factor_for"]

MOSAIC_SIDE = 128
"""Side in pixels from which images are stitched from 2 x 2 patches."""


def factor_for(side: int) -> int:
    """Patches in a row by the side of the images: 1 below 128 px, 2 from there on."""
    return 2 if side >= MOSAIC_SIDE else 1


@dataclass(frozen=True, kw_only=True)
class Rded:
    """Of each class random images, of each image the best of some random square crops, and of those the best of all.

    A crop is resized to the side of a cell and scored by the trained net's cross-entropy loss, in the middle of an
    image of zeros in model-input space: the lower, the more realistic. Of several nets the mean loss counts. The best
    ipc patches fill the upper left cells of the images, the next ipc the cells beside them, and so on.

    Classes draw from streams of their own. With one patch per image a smaller budget is a prefix of a larger one; of
    mosaics that holds for the patches chosen, not for the images.

    Differs from the authors' code in: crops are cut from images as they are loaded, which `--size` resizes and crops,
    where the code cuts them from the files. Patches are rounded to 8 bits once, after they were chosen, and never pass
    through JPEG; crops are scored as they are before that, as there. Images are normalised by the space of the net,
    where the code always takes ImageNet's constants (`--space imagenet`). With `eta` above 0 the choice also avoids
    what is chosen already, which is DCPI's guidance in our reading (arXiv:2410.01611 has no formula).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"backbones"})
    memory_knobs: ClassVar[tuple[str, ...]] = ("crops",)
    factor: int | None = opt(None, "patches in a row of a mosaic; auto is 1 below 128 px, 2 from there on", min=1)
    crops: int = opt(5, "random crops of each image, of which the best one counts", min=1, max=10_000)
    pool: int = opt(300, "random images of each class that are looked at, or all of a smaller class", min=1)
    least_area: float = opt(0.08, "least share of an image's area in a crop", above=0, max=1)
    eta: float = opt(0.0, "loss that a patch as similar as can be to one already chosen is charged", min=0)

    def total_steps(self, problem: Problem) -> int:
        """One class per step."""
        return len(problem.classes)

    def group(self, problem: Problem) -> int:
        """Classes need nothing of each other."""
        del problem
        return 1

    def check(self, problem: Problem) -> None:
        """Refuse what gives no mosaics.

        Raises:
            UsageError: whitened images, cells without a pixel, or a pool that is too small for the mosaics.
            DataError: a class that is.
        """
        side, factor = problem.pixels.shape[-1], self.factor_of(problem)
        if problem.space.zca is not None:
            raise UsageError(
                "crops are scored in normalised pixels, the teacher was trained on ZCA-whitened ones",
                field="space",
                hint="train a teacher with --space normalised",
            )
        if factor > side:
            raise UsageError(
                f"option 'factor' is {factor}, expected at most {side}, the side of images", field="factor"
            )
        need = problem.ipc * factor**2
        counts = torch.bincount(problem.labels, minlength=len(problem.classes)).tolist()
        name, count = min(zip(problem.classes, counts, strict=True), key=lambda pair: pair[1])
        what = (
            f"too few patches for the mosaics: --ipc {problem.ipc} with {factor} x {factor} patches takes {need} images"
        )
        if count < need:
            advice = "" if factor == 1 else f" or --set factor (now {factor})"
            raise DataError(f"{what}, class '{name}' has {count}", field="ipc", hint=f"lower --ipc{advice}")
        if self.pool < need:
            raise UsageError(f"{what}, 'pool' is {self.pool}", field="pool", hint=f"type --set pool={need} or more")

    def record(self, problem: Problem) -> dict[str, Any]:
        """The layout that was followed, for the manifest."""
        side, factor = problem.pixels.shape[-1], self.factor_of(problem)
        return {"mosaic": {"factor": factor, "cells": list(cell_sides(side, factor))}}

    def memory(self, problem: Problem) -> int:
        """Bytes at most: the crops of a chunk of images and the maps of a pass; what `finish` makes is the set."""
        channels, side = problem.pixels.shape[1], problem.pixels.shape[-1]
        shape = problem.pixels.shape[1:]
        largest = max(largest_map(net, shape) for net in problem.backbones)
        images = self._images_at_once(problem, images_at_once(largest, problem.device))
        weights = sum(parameter.numel() for net in problem.backbones for parameter in net.parameters())
        crops = images * self.crops * side * (4 * channels * side + 4 * side)
        return 4 * (weights + crops + 4 * images_at_once(largest, problem.device) * largest)

    def prepare(self, problem: Problem, generator: Generator) -> State:
        """Nothing chosen: `patches` (k, ipc f^2, 4) of image, top, left and side, all -1, and `losses` (k, ipc f^2)."""
        del generator
        shape = (len(problem.classes), problem.ipc * self.factor_of(problem) ** 2)
        return {"patches": torch.full((*shape, 4), -1), "losses": torch.zeros(shape)}

    def step(self, problem: Problem, state: State, index: int, generator: Generator) -> tuple[State, dict[str, float]]:
        """Choose the patches of one class, which draws from a stream of its own."""
        del generator
        scorer = Scorer(problem.backbones, problem.pixels.shape[1:])
        pool, losses = self._pool(problem, index, scorer)
        order = self._chosen(problem, pool, losses, scorer)
        after = {name: tensor.clone() for name, tensor in state.items()}
        after["patches"][index] = pool[order].to(after["patches"].device)
        after["losses"][index] = losses[order].to(after["losses"].device)
        return after, {"loss": float(losses[order].double().mean()), "pool_loss": float(losses.double().mean())}

    def finish(self, problem: Problem, state: State) -> Distilled:
        """The chosen crops cut once more, rounded to 8 bits and stitched, class by class."""
        factor, side = self.factor_of(problem), problem.pixels.shape[-1]
        tables = [torch.cat([in_cells(row, factor) for row in state[name].cpu()]) for name in ("patches", "losses")]
        images = []
        for cells in tables[0].split(problem.ipc):
            parts = cells.flatten(0, 1).split(self._images_at_once(problem, 1))
            levels = torch.cat([_patches(problem, part[:, None], side // factor)[:, 0] for part in parts])
            pixels = levels.round().clamp(0, 255).to(torch.uint8).cpu()
            images.append(stitched(pixels.unflatten(0, cells.shape[:2]), side))
        return Distilled(
            labels=class_labels(problem),
            pixels=torch.cat(images),
            patches=tables[0],
            patch_losses=tables[1],
            metrics={"patch_loss": float(tables[1].double().mean())},
        )

    def factor_of(self, problem: Problem) -> int:
        """Patches in a row."""
        return self.factor or factor_for(problem.pixels.shape[-1])

    def _pool(self, problem: Problem, label: int, scorer: Scorer) -> tuple[Tensor, Tensor]:
        """The best crop (m, 4) of each image of the pool, and its loss (m,) float32, on the CPU."""
        best, losses = [], []
        for part in self._drawn(problem, label, self._images_at_once(problem, scorer.chunk)):
            canvases = self._canvases(problem, part)
            lowest, which = scorer.losses(canvases, label).view(part.shape[:2]).cpu().min(dim=1)
            best.append(part[torch.arange(len(part)), which])
            losses.append(lowest)
        return torch.cat(best), torch.cat(losses)

    def _drawn(self, problem: Problem, label: int, together: int) -> Iterator[Tensor]:
        """Crops (b, `crops`, 4) of the images of a class's pool, b images at a time."""
        members, side = problem.members(label), problem.pixels.shape[-1]
        source = seeding.generator(problem.seed, "rded", label)
        pool = members[random_order(len(members), source)[: self.pool]]
        squares = random_squares(len(pool) * self.crops, side, self.least_area, source).view(len(pool), self.crops, 3)
        images = pool[:, None, None].expand(-1, self.crops, 1)
        yield from torch.cat([images, squares], dim=2).split(together)

    def _canvases(self, problem: Problem, crops: Tensor) -> Tensor:
        """What the nets see of crops (b, m, 4): (b*m, c, s, s) float32 in model-input space."""
        side = problem.pixels.shape[-1]
        levels = _patches(problem, crops, side // self.factor_of(problem)).flatten(0, 1)
        return centred(problem.space.encode(levels), side)

    def _chosen(self, problem: Problem, pool: Tensor, losses: Tensor, scorer: Scorer) -> Tensor:
        """Positions (ipc f^2,) in a pool (m, 4), in order of choice."""
        count = problem.ipc * self.factor_of(problem) ** 2
        if not self.eta:
            return losses.sort(stable=True).indices[:count]
        parts = pool[:, None].split(self._images_at_once(problem, scorer.chunk) * self.crops)
        features = torch.cat([scorer.features(self._canvases(problem, part)).cpu() for part in parts])
        return spread(losses, features, count, self.eta)

    def _images_at_once(self, problem: Problem, chunk: int) -> int:
        """Images whose crops fill some chunks of the nets: as many at any size of the data set."""
        del problem
        return max(1, -(-4 * chunk // self.crops))


def spread(losses: Tensor, features: Tensor, count: int, eta: float) -> Tensor:
    """Greedy choice of candidates with a low loss that do not resemble those chosen.

    Each choice has the least loss + eta * max cosine to those chosen before; the first one has the least loss. Equal
    ones come in their order.

    Args:
        losses: (m,).
        features: (m, f) of length 1.
        count: how many to choose, at most m.
        eta: weight.

    Returns:
        (count,) int64 in order of choice.
    """
    wide, cost = features.double(), losses.double()
    nearest = torch.full_like(cost, -torch.inf)
    chosen = [int(cost.argmin())]
    taken = torch.zeros(len(cost), dtype=torch.bool)
    while len(chosen) < count:
        taken[chosen[-1]] = True
        nearest = torch.maximum(nearest, wide @ wide[chosen[-1]])
        chosen.append(int((cost + eta * nearest).masked_fill(taken, torch.inf).argmin()))
    return torch.tensor(chosen)


def _patches(problem: Problem, crops: Tensor, small: int) -> Tensor:
    """Crops (b, m, 4) as patches (b, m, c, p, p) float32 in levels 0 to 255, on the problem's device."""
    pixels = problem.pixels[crops[:, 0, 0].to(problem.pixels.device)]
    return cut(pixels.to(problem.device).float(), crops[:, :, 1:], small)


METHOD = Rded
