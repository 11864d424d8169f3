"""Students of GIFT: AdamW, two drops, composite DSA, batch by set size (Shang et al., 2024, arXiv:2405.14736)."""

from __future__ import annotations

from dataclasses import dataclass

from ..training import Recipe
from ._protocol import Student

__all__ = ["PROTOCOL", "batch_for"]

TRANSFORMERS = ("swin", "vit")


def batch_for(stored_images: int) -> int:
    """GIFT's batch size as a function of M, the images stored: 10, 50, 100 or 200.

    >>> [batch_for(m) for m in (10, 11, 500, 501, 20_000, 20_001)]
    [10, 50, 50, 100, 100, 200]
    """
    for limit, batch in ((10, 10), (500, 50), (20_000, 100)):
        if stored_images <= limit:
            return batch
    return 200


@dataclass(frozen=True)
class GiftProtocol:
    """AdamW 1e-3 (transformers 1e-4), weight decay 1e-4, x0.2 at 2E/3 and 5E/6, 1000 epochs, composite DSA.

    Differs from the authors' code in: labels are those stored in the bundle, where the code asks the teacher during
    training; the last of the four test evaluations is reported, where the code reports the best.
    """

    test_evaluations: int = 4

    def recipe(self, student: Student) -> Recipe:
        """Batch by the number of stored images, step size by the family of the net."""
        return Recipe(
            optimizer="adamw",
            lr=1e-4 if student.arch.startswith(TRANSFORMERS) else 1e-3,
            momentum=0.0,
            weight_decay=1e-4,
            schedule="gift",
            epochs=1000,
            batch=batch_for(student.stored_images),
            augment="dsa-composite",
        )


PROTOCOL = GiftProtocol()
