"""What a layer of the teacher gives for each image, pooled over channels or over space (DCPI, earlier DRUPI)."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import opt
from ..privileged._form import ATTENTIONS, POOLS
from ._privileged import PrivilegedKind

__all__ = ["KIND"]


@dataclass(frozen=True, kw_only=True)
class Attention(PrivilegedKind):
    """A feature label pooled: a map of h x w numbers, or a number for each channel.

    Channel attention of nets with instance norm says nearly nothing, because that makes the channel means of all
    images alike; spatial attention and nets with batch norm do not have this defect.

    Differs from the authors' code in: the `sum` that the code names is left out, because the function it calls does
    not exist and it is the average up to a factor; several nets are averaged before pooling, where it matters (max).
    """

    attention: str = opt(
        "spatial", "spatial: the map, over channels; channel: a number for each, over space", choices=ATTENTIONS
    )
    pool: str = opt("avg", "how channels or positions become one number", choices=POOLS)

    def pooling(self) -> tuple[str | None, str]:
        """As the options say."""
        return self.attention, self.pool


KIND = Attention
