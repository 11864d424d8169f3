"""The images and hard labels of a distilled bundle, as sections and as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .bundle import Bundle, NewSection
from .errors import BundleError
from .preprocess import data_of, read_space
from .space import Space
from .storage import zip_bytes

__all__ = ["DistilledSet", "hard_section", "image_section", "read_distilled"]

IMAGES = "images.pixels"
HARD = "labels.hard"


@dataclass(frozen=True)
class DistilledSet:
    """What a student trains on, before any richer label."""

    images: Tensor
    """(n, c, h, w) float32 in model-input space, class-major."""
    labels: Tensor
    """(n,) int64 in [0, k)."""
    classes: tuple[str, ...]
    space: Space

    @property
    def ipc(self) -> int:
        """Images of the largest class."""
        return int(torch.bincount(self.labels, minlength=len(self.classes)).max())


def image_section(images: Tensor, space: Space) -> NewSection:
    """The `images` section: uint8 pixels, or float32 images in model-input space, (n, c, h, w).

    Also measures the zip of the pixels, which LADD's overhead rule asks for.
    """
    pixels = images if images.dtype == torch.uint8 else space.to_pixels(images)
    value_range = "uint8" if images.dtype == torch.uint8 else "float32"
    zipped = zip_bytes([pixels.contiguous().numpy().tobytes()])
    return NewSection("images", "images", {IMAGES: images}, range=value_range, zip_bytes=zipped)


def hard_section(labels: Tensor, classes: int) -> NewSection:
    """The `labels.hard` section: (n,) class indices in the smallest type that holds them.

    Also measures the zip of their one-hot float32 form, which LADD's overhead rule asks for.
    """
    stored = labels.to(torch.uint8 if classes <= 256 else torch.int32)
    one_hot = functional.one_hot(labels, classes).float()
    zipped = zip_bytes([one_hot.numpy().tobytes()])
    return NewSection(HARD, "labels", {HARD: stored}, role="hard", views=1, zip_bytes=zipped)


def read_distilled(bundle: Bundle, device: torch.device | str = "cpu") -> DistilledSet:
    """Decode the images and hard labels of a bundle.

    Raises:
        BundleError: not a distilled bundle; non-finite images; labels outside [0, k).
    """
    if bundle.kind != "distilled":
        raise BundleError(
            f"{bundle.name}: kind '{bundle.kind}', expected a distilled bundle",
            field="kind",
            hint="run 'ddlabel distill' first",
        )
    data, space = data_of(bundle), read_space(bundle)
    stored = bundle.tensor(IMAGES)
    images = space.encode(stored) if stored.dtype == torch.uint8 else stored
    if not bool(torch.isfinite(images).all()):
        raise BundleError(f"{bundle.name}: '{IMAGES}' holds NaN or infinity, expected finite images", field=IMAGES)
    shape = (data["channels"], data["height"], data["width"])
    if tuple(images.shape[1:]) != shape:
        raise BundleError(
            f"{bundle.name}: '{IMAGES}' holds {tuple(images.shape[1:])} images, its data record says {shape}",
            field=IMAGES,
        )
    return DistilledSet(images.to(device), _read_hard(bundle, len(data["classes"])), tuple(data["classes"]), space)


def _read_hard(bundle: Bundle, classes: int) -> Tensor:
    labels = bundle.tensor(HARD).long()
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        index = int(outside.nonzero()[0])
        raise BundleError(
            f"{bundle.name}: '{HARD}' gives image {index} class {int(labels[index])}, expected 0 to {classes - 1}",
            field=HARD,
        )
    return labels
