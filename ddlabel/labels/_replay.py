"""fkd's views from draws, whether the draws follow from a seed or are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..crops import resized_crops
from ..errors import UsageError
from ._draws import WEIGHT_ONE

__all__ = ["Draws", "Stored", "check_stored", "mixed_views", "pack", "parts_of", "restrict"]

SHAPES = {"crop": (4,), "flip": (), "partner": (), "box": (4,), "weight": ()}
"""What is stored of a view: crop and box as top, left, height, width."""
MIX_PARTS = {"none": (), "cutmix": ("partner", "box"), "mixup": ("partner", "weight")}


class Draws(Protocol):
    """Where the draws of pairs (image[i], view[i]) come from."""

    def crops(self, image: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Crop (b, 4) int64 top, left, height, width; flip (b,) bool."""
        ...

    def partners(self, image: Tensor, view: Tensor) -> Tensor:
        """(b,) int64 images mixed in."""
        ...

    def boxes(self, image: Tensor, view: Tensor) -> Tensor:
        """(b, 4) int64 top, left, height, width of what the partner covers in a CutMix."""
        ...

    def weights(self, image: Tensor, view: Tensor) -> Tensor:
        """(b,) int64 share of the image itself in a Mixup, in units of 2^-16."""
        ...


def mixed_views(draws: Draws, mix: str, images: Tensor, image: Tensor, view: Tensor) -> Tensor:
    """Crop, resize and mirror the images; then mix in their partners, seen in their own view of the same number.

    Args:
        draws: of crops and mixes.
        mix: none, cutmix or mixup.
        images: (n, c, s, s) all images.
        image, view: (b,) int64.

    Returns:
        (b, c, s, s).
    """
    own = resized_crops(images, image, *draws.crops(image, view))
    if mix == "none":
        return own
    partner = draws.partners(image, view)
    other = resized_crops(images, partner, *draws.crops(partner, view))
    if mix == "cutmix":
        return torch.where(_inside(draws.boxes(image, view).to(own.device), own.shape[-1]), other, own)
    weight = (draws.weights(image, view).double() / WEIGHT_ONE).to(own)[:, None, None, None]
    return own * weight + other * (1 - weight)


def _inside(box: Tensor, side: int) -> Tensor:
    """(b, 1, s, s): the pixels of each box."""
    place = torch.arange(side, device=box.device)
    top, left, height, width = (edge[:, None] for edge in box.unbind(dim=1))
    rows = (place >= top) & (place < top + height)
    columns = (place >= left) & (place < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def parts_of(mix: str) -> tuple[str, ...]:
    """Names of what is stored of each view."""
    return ("crop", "flip", *MIX_PARTS[mix])


def pack(draws: Draws, mix: str, *, images: int, views: int, side: int) -> dict[str, Tensor]:
    """All draws as the smallest whole numbers that hold them: (n, v, ...) uint8, uint16 or int32 by name."""
    image = torch.arange(images).repeat_interleave(views)
    view = torch.arange(views).repeat(images)
    crop, flip = draws.crops(image, view)
    pixels = torch.uint8 if side < 256 else torch.uint16
    parts = {"crop": crop.to(pixels), "flip": flip.to(torch.uint8)}
    if mix != "none":
        small = torch.uint8 if images <= 256 else torch.uint16 if images <= 65_536 else torch.int32
        parts["partner"] = draws.partners(image, view).to(small)
    if mix == "cutmix":
        parts["box"] = draws.boxes(image, view).to(pixels)
    if mix == "mixup":
        parts["weight"] = draws.weights(image, view).to(torch.uint16)
    return {name: part.reshape(images, views, *SHAPES[name]) for name, part in parts.items()}


@dataclass(frozen=True)
class Stored:
    """Draws that are stored with the labels, checked."""

    parts: Mapping[str, Tensor]
    """(n, v, ...) int64 by name."""

    def crops(self, image: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """As stored."""
        return self._of("crop", image, view), self._of("flip", image, view) == 1

    def partners(self, image: Tensor, view: Tensor) -> Tensor:
        """As stored."""
        return self._of("partner", image, view)

    def boxes(self, image: Tensor, view: Tensor) -> Tensor:
        """As stored."""
        return self._of("box", image, view)

    def weights(self, image: Tensor, view: Tensor) -> Tensor:
        """As stored."""
        return self._of("weight", image, view)

    def _of(self, name: str, image: Tensor, view: Tensor) -> Tensor:
        return self.parts[name][image.cpu(), view.cpu()]


def restrict(parts: Mapping[str, Tensor], chosen: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The draws of some images alone, their partners counted among them.

    Args:
        parts: (n, v, ...) by name, of all images.
        chosen: (m,) int64 images.

    Returns:
        (m, v, ...) int64 by name, and (m, v) bool: views whose partner is one of them. In others it is image 0.
    """
    kept = {name: part.to(torch.int64)[chosen] for name, part in parts.items()}
    usable = torch.ones(kept["crop"].shape[:2], dtype=torch.bool)
    if "partner" in kept:
        place = torch.full((len(parts["crop"]),), -1)
        place[chosen] = torch.arange(len(chosen))
        partner = place[kept["partner"]]
        usable = partner >= 0
        kept["partner"] = partner.clamp(min=0)
    return kept, usable


def check_stored(parts: Mapping[str, Tensor], mix: str, *, views: int, side: int) -> Stored:
    """Draws of somebody else's file, after every check.

    Args:
        parts: tensors by name.
        mix: none, cutmix or mixup.
        views: per image.
        side: of the images in pixels.

    Raises:
        UsageError: other parts, shapes or types; a crop or box outside the image, a partner that is no image, naming
            image and view.
    """
    wanted = parts_of(mix)
    if set(parts) != set(wanted):
        raise UsageError(
            f"its stored draws are {', '.join(sorted(parts)) or 'none'}, expected {', '.join(sorted(wanted))}"
        )
    images = len(parts["crop"])
    for name, part in parts.items():
        if part.is_floating_point() or part.is_complex() or part.shape != (images, views, *SHAPES[name]):
            raise UsageError(
                f"its stored '{name}' is {part.dtype} of shape {tuple(part.shape)}, expected whole numbers of shape "
                f"{(images, views, *SHAPES[name])}"
            )
    whole = {name: part.to(torch.int64) for name, part in parts.items()}
    _check_areas("crop", whole["crop"], side, least=1)
    _check_below("flip", whole["flip"], 2)
    if "partner" in whole:
        _check_below("partner", whole["partner"], images)
    if "box" in whole:
        _check_areas("box", whole["box"], side, least=0)
    if "weight" in whole:
        _check_below("weight", whole["weight"], WEIGHT_ONE)
    return Stored(whole)


def _check_areas(name: str, areas: Tensor, side: int, *, least: int) -> None:
    start, length = areas[..., :2], areas[..., 2:]
    bad = ((start < 0) | (length < least) | (length > side) | (start > side - length)).any(dim=-1)
    if bool(bad.any()):
        image, view = (int(index) for index in bad.nonzero()[0])
        raise UsageError(
            f"its stored {name} of image {image}, view {view} is {areas[image, view].tolist()} (top, left, height, "
            f"width), which does not lie inside {side} x {side} px"
        )


def _check_below(name: str, values: Tensor, limit: int) -> None:
    bad = (values < 0) | (values >= limit)
    if bool(bad.any()):
        image, view = (int(index) for index in bad.nonzero()[0])
        raise UsageError(
            f"its stored {name} of image {image}, view {view} is {int(values[image, view])}, expected 0 to {limit - 1}"
        )
