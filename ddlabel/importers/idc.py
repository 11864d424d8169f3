"""IDC's `data.pt`: pixels in [0, 1], each image a grid of smaller ones (arXiv:2205.14959)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import BundleError, UsageError
from ..options import opt
from ._checks import hard_labels, images_of
from ._importer import Foreign
from ._sources import Sources, shown
from ._torch_file import read_torch

__all__ = ["IMPORTER", "cells"]

FILE = "data.pt"
PADDING = 0.5


@dataclass(frozen=True, kw_only=True)
class Idc:
    """A pair (images, labels); each image holds `factor` x `factor` cells, each one image resized up when decoded.

    The file does not say its factor: the authors' name of the folder does (`..._factor2_...`). A bundle holds what is
    decoded, factor^2 images for each stored one.

    Differs from the authors' code in: the order of decoded images, which is image by image here and cell by cell
    within a class there.
    """

    factor: int | None = opt(None, "cells along each side of an image; IDC published 1, 2 and 3", min=1, max=16)

    @classmethod
    def recognises(cls, sources: Sources) -> bool:
        """A file called data.pt, or a folder with one."""
        path = sources.paths[0]
        return len(sources.paths) == 1 and (path.name == FILE or (path / FILE).is_file())

    def read(self, sources: Sources) -> Foreign:
        """Read and decode."""
        given = sources.only
        path = given / FILE if given.is_dir() else given
        if self.factor is None:
            raise UsageError(
                f"{shown(path)}: the number of cells in its images is not in the file; give --set factor=N (the "
                "authors' name of its folder says it, as in 'factor2'; 1 keeps images whole)",
                field="factor",
            )
        name, content = shown(path), read_torch(sources, path)
        if not isinstance(content, list | tuple) or len(content) != 2:
            raise BundleError(f"{name}: no pair of images and labels, expected a data.pt of IDC")
        images, labels = images_of(content[0], name), hard_labels(content[1], name)
        if len(images) != len(labels):
            raise BundleError(f"{name}: {len(images)} images and {len(labels)} labels")
        if not images.is_floating_point():
            raise BundleError(f"{name}: uint8 images, IDC's are floats in [0, 1]")
        return Foreign(
            name=name,
            images=cells(images, self.factor),
            values="units",
            labels=labels.repeat_interleave(self.factor**2),
            said={"labels": name},
            metrics={"factor": self.factor, "stored_images": len(images)},
        )


def cells(images: Tensor, factor: int) -> Tensor:
    """The cells of images (n, c, s, s), resized to (s, s): (n f^2, c, s, s), image by image, row by row.

    Sides that the factor does not divide are padded on the right and below by 0.5; cells are ceil(s / f) wide, and
    resized bilinearly with pixel centres at halves.

    Raises:
        BundleError: images that are not square, or that the factor cannot cut.
    """
    count, channels, height, width = images.shape
    if factor == 1:
        return images
    side = -(-width // factor)
    missing = side * factor - width
    if height != width or factor > width:
        raise BundleError(
            f"images of {height} x {width} px cannot be cut into {factor} x {factor} cells", field="factor"
        )
    padded = functional.pad(images, (0, missing, 0, missing), value=PADDING)
    grid = padded.unfold(2, side, side).unfold(3, side, side)  # n c f f s s
    flat = grid.permute(0, 2, 3, 1, 4, 5).reshape(count * factor**2, channels, side, side)
    parts = [functional.interpolate(part, size=(height, width), mode="bilinear") for part in flat.split(1024)]
    return torch.cat(parts)


IMPORTER = Idc
