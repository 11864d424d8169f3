"""What a label codec is, and how its loss is measured.

A codec turns label values (n, v, k) float32, of n images with v views each, into named tensors and back. It is
lossless to its own quantised values, so encoding twice changes nothing.

Names say what a part belongs to: `shared…` to the whole set, in any shape; `image_…` to an image, (n, …); all others
to a view, (n, v, …).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, UsageError
from ._blocks import Array, over_blocks, row_sum

__all__ = [
    "MAX_F16",
    "Codec",
    "Shape",
    "check_encodable",
    "check_parts",
    "error_of",
    "fidelity",
    "measured",
    "only_softmax",
]

MAX_F16 = 60_000.0
"""Largest magnitude that codecs with float16 parts accept; float16 itself ends at 65,504."""

Shape = tuple[int, int, int]
"""Images n, views v, classes k."""


class Codec(Protocol):
    """One way of storing label values."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Values (n, v, k) float32 as named parts; the same on every machine and any number of threads.

        Raises:
            UsageError: values the codec cannot hold, naming image and view; options impossible for k classes.
        """
        ...

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """Values float32 of the given shape; encoding and decoding them again gives the same bits.

        Raises:
            BundleError: the codec did not write such parts for such a shape.
        """
        ...

    def tolerance(self, values: Tensor) -> Tensor:
        """(n, v) float64 proven bound of |decoded - original| per view."""
        ...

    def domain(self, domain: str) -> str:
        """Domain of decoded values, given that of the originals.

        Raises:
            UsageError: the codec cannot hold values of this domain; names those it can.
        """
        return domain

    def check(self, views: int, classes: int) -> None:
        """Refuse options that are impossible for labels of so many views and classes, before there are any.

        Raises:
            UsageError: as `encode` would.
        """
        del views, classes

    def bind(self, views: int) -> Self:
        """The codec for labels whose kind has so many views; only codecs that leave views out care."""
        del views
        return self

    def made_from(self, views: int) -> int:
        """How many views the kind has, given how many are stored."""
        return views

    def view_ids(self, images: int) -> Tensor | None:
        """(n, v') int64, ascending: which views of each image are kept; None for all."""
        del images
        return None


def only_softmax(name: str, domain: str) -> str:
    """`logprob`, for codecs whose decoded values make sense through a softmax alone.

    Raises:
        UsageError: the originals are neither logits nor log-probabilities.
    """
    if domain not in {"logit", "logprob"}:
        raise UsageError(
            f"codec '{name}' holds logit or logprob labels, these are '{domain}'",
            field="codec",
            hint="use --codec q8",
        )
    return "logprob"


def check_encodable(values: Tensor, limit: float | None = None) -> None:
    """Refuse values (n, v, k) that are not finite, or beyond what a codec holds.

    Raises:
        UsageError: naming the first such image, view and class.
    """
    classes = values.shape[-1]
    bound = float(np.finfo(np.float32).max) if limit is None else limit

    def work(rows: Array) -> tuple[Array]:
        return ((rows.max(axis=1) <= bound) & (rows.min(axis=1) >= -bound),)  # a NaN is neither

    (fits,) = over_blocks(work, values.detach().reshape(-1, classes).numpy(), width=classes)
    if not fits.all():
        image, view = divmod(int(np.flatnonzero(~fits)[0]), values.shape[1])
        row = values[image, view]
        label = int((~(row.abs() <= bound)).nonzero()[0])
        expected = "finite values" if limit is None else f"finite values within ±{limit:g}"
        raise UsageError(
            f"label of image {image}, view {view}, class {label} is {float(row[label])}, expected {expected}",
            field="codec",
            hint="check the teacher, or use --codec f32",
        )


def check_parts(parts: Mapping[str, Tensor], expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """Refuse parts that a codec did not write.

    Args:
        parts: by name.
        expected: dtype and shape of each part.

    Raises:
        BundleError: naming the part, or the parts there are.
    """
    if parts.keys() != expected.keys():
        raise BundleError(f"its parts are {', '.join(sorted(parts)) or 'none'}, expected {', '.join(expected)}")
    for name, (dtype, shape) in expected.items():
        part = parts[name]
        if part.dtype != dtype or tuple(part.shape) != shape:
            raise BundleError(
                f"part '{name}' is {part.dtype} of shape {tuple(part.shape)}, expected {dtype} of shape {shape}",
                field=name,
            )


def error_of(decoded: Tensor, values: Tensor) -> Tensor:
    """(n, v) float64: largest |decoded - original| of each view, exactly."""
    classes = values.shape[-1]

    def work(ours: Array, theirs: Array) -> tuple[Array]:
        return (np.abs(theirs.astype(np.float64) - ours.astype(np.float64)).max(axis=1),)

    rows = (tensor.detach().reshape(-1, classes).numpy() for tensor in (values, decoded))
    (error,) = over_blocks(work, *rows, width=classes)
    return torch.from_numpy(error).reshape(values.shape[:2])


def measured(codec: Codec, values: Tensor) -> Tensor:
    """(n, v) float64: the bound of codecs without a simple one, the error itself."""
    images, views, classes = values.shape
    return error_of(codec.decode(codec.encode(values), (images, views, classes)), values)


def fidelity(original: Tensor, decoded: Tensor, domain: str) -> dict[str, float]:
    """What a codec lost, as means over all views.

    Args:
        original, decoded: (..., k) float32 label values.
        domain: of the originals; divergences are of the distributions they stand for.

    Returns:
        KL(original || decoded) in nats at T = 1 and 20, cosine of the values, top-1 agreement, absolute error of the
        top-1 probability, change of entropy in nats. Of features, which stand for no distribution, `relative_rms`,
        the rms error over the rms value of the whole set, and the mean cosine. The same on any number of threads: they
        are part of the bundle.
    """
    if domain == "feature":
        return _feature_fidelity(original, decoded)
    classes = original.shape[-1]

    def work(ours: Array, theirs: Array) -> tuple[Array]:
        return (_measures(ours.astype(np.float64), theirs.astype(np.float64), domain),)

    rows = (tensor.detach().reshape(-1, classes).numpy() for tensor in (original, decoded))
    (measured,) = over_blocks(work, *rows, width=classes)
    means = {name: _mean(column) for name, column in zip(_NAMES, measured.T, strict=True)}
    return means | {name: max(0.0, means[name]) for name in ("kl_t1", "kl_t20")}


_NAMES = ("kl_t1", "kl_t20", "cosine", "top1_agreement", "top1_probability_error", "entropy_shift")


def _measures(ours: Array, theirs: Array, domain: str) -> Array:
    """(b, 6) float64: every measure of every row."""
    before, after = _log_probabilities(ours, domain, 1), _log_probabilities(theirs, domain, 1)
    warm, warmer = _log_probabilities(ours, domain, 20), _log_probabilities(theirs, domain, 20)
    rows, top = np.arange(len(ours)), ours.argmax(axis=1)
    product = row_sum(ours * theirs)
    lengths = np.sqrt(row_sum(ours * ours)) * np.sqrt(row_sum(theirs * theirs))
    columns = (
        row_sum(np.exp(before) * (before - after)),
        row_sum(np.exp(warm) * (warm - warmer)),
        product / np.maximum(lengths, 1e-16),
        (top == theirs.argmax(axis=1)).astype(np.float64),
        np.abs(np.exp(before[rows, top]) - np.exp(after[rows, top])),
        row_sum(np.exp(before) * before) - row_sum(np.exp(after) * after),
    )
    return np.stack(columns, axis=1)


def _feature_fidelity(original: Tensor, decoded: Tensor) -> dict[str, float]:
    """Of features (..., d); a row that is zero and stays zero has cosine 1, a set without any loss error 0."""
    width = original.shape[-1]

    def work(ours: Array, theirs: Array) -> tuple[Array]:
        before, after = ours.astype(np.float64), theirs.astype(np.float64)
        squares, others = row_sum(before * before), row_sum(after * after)
        lengths = np.sqrt(squares) * np.sqrt(others)
        cosine = np.where(lengths > 0, row_sum(before * after) / np.maximum(lengths, 1e-300), squares == others)
        return (np.stack([row_sum((after - before) ** 2), squares, cosine], axis=1),)

    rows = (tensor.detach().reshape(-1, width).numpy() for tensor in (original, decoded))
    (measured,) = over_blocks(work, *rows, width=width)
    error, total = (math.fsum(measured[:, column].tolist()) for column in (0, 1))
    relative = math.sqrt(error / total) if total else math.sqrt(error)
    return {"relative_rms": relative, "cosine": _mean(measured[:, 2])}


def _mean(column: Array) -> float:
    """Exactly rounded, so that blocks and threads do not matter."""
    return math.fsum(column.tolist()) / max(1, len(column))


def _log_probabilities(values: Array, domain: str, temperature: int) -> Array:
    if domain in {"prob", "unit"}:
        values = np.log(np.maximum(values, 1e-12))
    values = (values - values.max(axis=1, keepdims=True)) / temperature
    return np.asarray(values - np.log(row_sum(np.exp(values)))[:, None])
