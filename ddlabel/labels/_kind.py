"""What a kind of labels is: which views of an image are labelled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from ..errors import UsageError

__all__ = ["PRIVILEGED", "Alone", "Kind"]

PRIVILEGED = ("feature", "attention")
"""Label kinds that only training sees, as sections `labels.<kind>`; they are no `Kind`, because nothing is viewed."""


@dataclass(frozen=True)
class Alone:
    """How views of some images are made when the other images of the bundle are not there."""

    parameters: Mapping[str, Any]
    """In place of those of the section."""
    augmentation: Mapping[str, Tensor]
    """Draws of the m images, (m, v, ...) by name."""
    usable: Tensor
    """(m, v) bool: views that need no other image than these."""


class Kind(Protocol):
    """A kind of labels; its options are those of a frozen dataclass.

    Teachers label the views that `view` makes, and students train on the views that it makes: there is no other place
    where a view comes from.
    """

    in_turn: ClassVar[bool] = False
    """Whether students see view e mod v of every image in epoch e, where they otherwise draw from all pairs."""
    own_image: ClassVar[bool] = False
    """Whether a view is made of its own image alone, by its pixels and not its place: the others need not be there."""

    @property
    @abstractmethod
    def view_count(self) -> int:
        """Views per image, v."""
        ...

    @abstractmethod
    def view(self, images: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """Chosen views of chosen images.

        Args:
            images: (n, c, h, w) float32 in model-input space: all images of the bundle.
            image: (b,) int64 in [0, n).
            view: (b,) int64 in [0, v).

        Returns:
            (b, c, h, w): view `view[i]` of image `image[i]`, on the device of the images. It does not depend on what
            else is in the batch.
        """
        ...

    @abstractmethod
    def parameters(self, size: int) -> dict[str, Any]:
        """What the section must record so that views of images of that size can be made again.

        Raises:
            UsageError: there are no such views of images of that size.
        """
        ...

    def bound(self, *, seed: int, flip: bool) -> Kind:
        """The kind for labelling one bundle: what is random takes its seed; what data forbids is left out.

        Args:
            seed: of the stage.
            flip: whether the data may be mirrored.
        """
        del seed, flip
        return self

    def augmentation(self, images: int, size: int) -> dict[str, Tensor]:
        """Draws to be stored with the labels, (n, v, ...) each, by name; none where parameters say it all."""
        del images, size
        return {}

    def replaying(self, augmentation: Mapping[str, Tensor], size: int) -> Kind:
        """The kind with the draws that were stored with its labels.

        Raises:
            UsageError: they are not what `augmentation` makes, or point outside the images.
        """
        del size
        if augmentation:
            raise UsageError(f"stored draws ({', '.join(sorted(augmentation))}), which this kind does not have")
        return self

    def alone(self, chosen: Tensor, *, images: int, size: int) -> Alone | None:
        """How views of the chosen images (m,) alone are made; None where a view is of its image and nothing else."""
        del chosen, images, size
        return None
