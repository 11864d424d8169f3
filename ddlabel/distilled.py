"""The images and hard labels of a distilled bundle, as sections and as tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .bundle import Bundle, NewSection
from .errors import BundleError
from .preprocess import data_of, read_space
from .space import Space
from .storage import zip_bytes, zip_bytes_of

__all__ = ["DistilledSet", "StoredSet", "hard_section", "image_section", "read_distilled", "read_stored"]

IMAGES = "images.pixels"
HARD = "labels.hard"
ONE_HOT_VALUES = 2**18
"""One-hot numbers in memory at a time, of 8 bytes."""
_WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


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
        return _largest(self.labels, len(self.classes))


@dataclass(frozen=True)
class StoredSet:
    """The same, not decoded yet: float images take four times the memory of pixels."""

    pixels: Tensor
    """(n, c, h, w) as stored: uint8 pixels, or float32 images in model-input space."""
    labels: Tensor
    """(n,) int64 in [0, k)."""
    classes: tuple[str, ...]
    space: Space
    name: str = "these images"
    """Of the bundle, for messages."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return int(self.pixels.shape[-1])

    @property
    def ipc(self) -> int:
        """Images of the largest class."""
        return _largest(self.labels, len(self.classes))

    def encode(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Chosen images (m, c, h, w) float32 in model-input space.

        Raises:
            BundleError: one is not finite.
        """
        stored = self.pixels[rows]
        images = self.space.encode(stored) if stored.dtype == torch.uint8 else stored
        if not bool(torch.isfinite(images).all()):
            raise BundleError(f"{self.name}: '{IMAGES}' holds NaN or infinity, expected finite images", field=IMAGES)
        return images

    def decoded(self) -> DistilledSet:
        """All of it, decoded."""
        return DistilledSet(self.encode(), self.labels, self.classes, self.space)


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
    parts = labels.split(max(1, ONE_HOT_VALUES // classes))
    zipped = zip_bytes_of(functional.one_hot(part, classes).float().numpy().tobytes() for part in parts)
    return NewSection(HARD, "labels", {HARD: stored}, role="hard", views=1, zip_bytes=zipped)


def read_distilled(bundle: Bundle, device: torch.device | str = "cpu") -> DistilledSet:
    """Decode the images and hard labels of a bundle.

    Raises:
        BundleError: not a distilled bundle; non-finite images; labels outside [0, k).
    """
    decoded = read_stored(bundle).decoded()
    return replace(decoded, images=decoded.images.to(device))


def read_stored(bundle: Bundle) -> StoredSet:
    """The images of a bundle as they are stored, and its hard labels.

    Raises:
        BundleError: not a distilled bundle; images of another shape than its record says, or neither uint8 nor
            float32; labels that are no whole numbers in [0, k).
    """
    if bundle.kind != "distilled":
        raise BundleError(
            f"{bundle.name}: kind '{bundle.kind}', expected a distilled bundle",
            field="kind",
            hint="run 'ddlabel distill' first",
        )
    data, space = data_of(bundle), read_space(bundle)
    pixels = bundle.tensor(IMAGES)
    shape = (data["channels"], data["height"], data["width"])
    if tuple(pixels.shape[1:]) != shape:
        raise BundleError(
            f"{bundle.name}: '{IMAGES}' holds {tuple(pixels.shape[1:])} images, its data record says {shape}",
            field=IMAGES,
        )
    if pixels.dtype not in {torch.uint8, torch.float32}:
        raise BundleError(f"{bundle.name}: '{IMAGES}' is {pixels.dtype}, expected uint8 or float32", field=IMAGES)
    return StoredSet(pixels, _read_hard(bundle, len(data["classes"])), tuple(data["classes"]), space, bundle.name)


def _largest(labels: Tensor, classes: int) -> int:
    return int(torch.bincount(labels, minlength=classes).max())


def _read_hard(bundle: Bundle, classes: int) -> Tensor:
    stored = bundle.tensor(HARD)
    if stored.dtype not in _WHOLE or stored.ndim != 1:
        raise BundleError(
            f"{bundle.name}: '{HARD}' is {stored.dtype} of shape {tuple(stored.shape)}, expected one whole number per "
            "image",
            field=HARD,
        )
    labels = stored.long()
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        index = int(outside.nonzero()[0])
        raise BundleError(
            f"{bundle.name}: '{HARD}' gives image {index} class {int(labels[index])}, expected 0 to {classes - 1}",
            field=HARD,
        )
    return labels
