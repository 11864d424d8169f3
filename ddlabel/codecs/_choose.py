"""`--codec auto`: the smallest codec that loses no more than asked for, judged on the labels alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import _plugins
from ..errors import UsageError
from ..options import as_dict, build
from ..packing import pack
from ..tensors import RawTensor
from ._codec import Codec, Shape, fidelity

__all__ = ["AUTO", "CANDIDATES", "MAX_KL", "Choice", "check_max_kl", "choose", "stored_bytes"]

AUTO = "auto"
MAX_KL = 0.01
"""Mean divergence in nats at temperature 1 that is accepted where nothing is said."""

CANDIDATES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("bf16", {}),
    ("delta-view", {}),
    ("delta-view", {"bits": 4}),
    ("delta-view", {"bits": 5}),
    ("delta-view", {"bits": 6}),
    ("f16", {}),
    ("f32", {}),
    ("klt", {"step": 0.4}),
    ("klt", {}),
    ("klt", {"step": 0.6}),
    ("klt", {"step": 0.8}),
    ("lowrank", {}),
    ("lowrank", {"rank": 8}),
    ("q3", {}),
    ("q3", {"clip": 8.0}),
    ("q4", {}),
    ("q4", {"clip": 8.0}),
    ("q4", {"clip": 12.0}),
    ("q4-shared", {}),
    ("q4-shared", {"clip": 12.0}),
    ("q6", {}),
    ("q6", {"clip": 8.0}),
    ("q8", {}),
    ("root", {}),
    ("root", {"step": 0.05}),
    ("topk-min", {}),
    ("topk-ms", {}),
    ("topk-ms", {"k": 50}),
    ("vq", {}),
)
"""What is tried, sorted by name. Codecs that cannot hold the labels, or would change their domain, are passed over:
`root` and `topk-ms` are tried on log-probabilities alone, because logits may be wanted as logits later. `topk-mr`
leaves classes without any probability, which no divergence forgives."""


@dataclass(frozen=True)
class Choice:
    """The codec that was chosen, and what the others would have cost."""

    name: str
    codec: Codec
    table: list[dict[str, Any]]
    """Each candidate's `codec`, `options`, `bytes` and `kl_t1`."""


def check_max_kl(codec: str, max_kl: float | None) -> float:
    """The bound to use.

    Raises:
        UsageError: a bound for a codec that is named, which has nothing to choose.
    """
    if max_kl is not None and codec != AUTO:
        raise UsageError(f"option 'max-kl' is for '--codec auto', the codec is '{codec}'", field="max_kl")
    return MAX_KL if max_kl is None else max_kl


def stored_bytes(parts: Iterable[Tensor]) -> int:
    """Bytes of parts in a bundle: compressed where that is smaller."""
    return sum(pack(RawTensor.of(part))[0].nbytes for part in parts)


def choose(values: Tensor, domain: str, max_kl: float = MAX_KL) -> Choice:
    """The candidate with the fewest stored bytes whose mean KL(original || decoded) at T = 1 is at most `max_kl`.

    Ties go to the first by name and options.

    Args:
        values: (n, v, k) float32.
        domain: of the values.
        max_kl: in nats.

    Raises:
        UsageError: no candidate fits; f32 loses nothing, so that this means impossible values.
    """
    images, views, classes = values.shape
    shape: Shape = (images, views, classes)
    table, fitting = [], []
    for name, options in CANDIDATES:
        try:
            codec: Codec = build(_plugins.load("codecs", name, "CODEC"), options)
            if codec.domain(domain) != domain:
                continue
            parts = codec.encode(values)
        except UsageError:
            continue
        size = stored_bytes(parts.values())
        loss = fidelity(values, codec.decode(parts, shape), domain)["kl_t1"]
        table.append({"codec": name, "options": dict(options), "bytes": size, "kl_t1": loss})
        if loss <= max_kl:
            fitting.append((size, name, str(as_dict(codec)), codec))
    if not fitting:
        raise UsageError(f"no codec holds these labels within {max_kl:g} nat", field="max_kl", hint="raise --max-kl")
    _size, name, _options, codec = min(fitting, key=lambda entry: entry[:3])
    return Choice(name, codec, table)
