"""One soft label per image: the teachers' mean logits of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ._kind import Kind

__all__ = ["KIND"]


@dataclass(frozen=True, kw_only=True)
class Soft(Kind):
    """A single view, the image itself."""

    own_image: ClassVar[bool] = True

    @property
    def view_count(self) -> int:
        """One."""
        return 1

    def view(self, images: Tensor, image: Tensor, view: Tensor) -> Tensor:
        """The images themselves."""
        del view
        return images[image.to(images.device)]

    def parameters(self, size: int) -> dict[str, Any]:
        """The image size."""
        return {"size": size}


KIND = Soft
