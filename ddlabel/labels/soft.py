"""One soft label per image: the teachers' mean logits of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["KIND"]


@dataclass(frozen=True, kw_only=True)
class Soft:
    """A single view, the image itself."""

    @property
    def view_count(self) -> int:
        """One."""
        return 1

    def views(self, images: Tensor) -> Tensor:
        """(b, 1, c, h, w)."""
        return images[:, None]

    def view(self, images: Tensor, index: Tensor) -> Tensor:
        """The images."""
        del index
        return images

    def parameters(self, size: int) -> dict[str, Any]:
        """The image size."""
        return {"size": size}


KIND = Soft
