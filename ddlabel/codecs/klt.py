"""Labels as whole steps along the directions in which they vary most: a Karhunen-Loeve transform the set shares.

Teachers' logits of many classes vary along few directions. Those of a few views, which are stored plainly, give the
basis; all other views are rounded along it. Rounding towards zero leaves most coefficients 0, which zstd packs well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import BundleError, UsageError
from ..options import opt
from ._blocks import Array, over_blocks
from ._codec import Codec, Shape, check_encodable, check_parts, measured
from ._eigen import eigenvectors

__all__ = ["CODEC"]

MOST = 256
"""Classes for which the basis is found in seconds."""
PLAIN_PER_CLASS = 4
"""Views that are stored plainly, for each class: enough to tell its directions."""
UNIT = 2**11
"""Of the whole numbers that a basis vector is stored as: its length."""
WIDEST = 2**14
"""Plain views have fewer steps than this; wider labels take coarser steps."""
KEEP = 0.65
"""Least part of a step that counts as one. Below one half would be rounding to nearest; small coefficients are common
and cost more bits than they are worth."""
CODES = (torch.int8, torch.int16, torch.int32)
"""Types of the codes: the smallest that holds them."""
ROUNDS = 20
"""Attempts to reach coefficients that encoding finds again in what they decode to."""


@dataclass(frozen=True, kw_only=True)
class Transformed(Codec):
    """Whole numbers along up to k directions, most of them 0: 8 k bits a view before zstd, a tenth of that after it.

    The basis is that of 4 k views, one of each of so many images, which are stored as steps of their values; they
    decode to themselves, so that encoding what was decoded finds the same basis.
    """

    step: float = opt(0.5, "step along each direction, in nats", min=0.01, max=10)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Parts `image_plain` (n, 1) uint8, the others int16, but for codes, which are int8 where that holds them.

        `image_plain` is 1 for the t images whose first view is stored plainly, in `shared_plain` (k, t). The basis is
        `shared_basis` (r, k), the codes along it `shared_codes` (r, n v). A step is `step` times 2 to the power of
        `shared_exponent` (1,).

        Raises:
            UsageError: more than 256 classes.
        """
        check_encodable(values)
        images, views, classes = values.shape
        self.check(views, classes)
        rows = np.asarray(values.detach().reshape(-1, classes).numpy())
        plain = _plain_views(images, views, classes)
        flags = np.zeros((images, 1), np.uint8)
        flags[plain // views] = 1
        parts = {"image_plain": flags, **self._encode(rows, plain)}
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def decode(self, parts: dict[str, Tensor], shape: Shape) -> Tensor:
        """(mean of the plain views + codes times basis) steps; plain views as they are."""
        images, views, classes = shape
        said = parts.get("image_plain")
        flags = np.empty(0, np.uint8) if said is None or said.dtype != torch.uint8 else said.reshape(-1).numpy()
        if flags.max(initial=0) > 1:
            raise BundleError("part 'image_plain' is neither 0 nor 1", field="image_plain")
        plain = np.flatnonzero(flags) * views
        used = len(parts["shared_basis"]) if "shared_basis" in parts and parts["shared_basis"].ndim else 0
        kind = parts["shared_codes"].dtype if "shared_codes" in parts else torch.int8
        kind = kind if kind in CODES else torch.int8
        check_parts(
            parts,
            {
                "image_plain": (torch.uint8, (images, 1)),
                "shared_exponent": (torch.int16, (1,)),
                "shared_plain": (torch.int16, (classes, len(plain))),
                "shared_basis": (torch.int16, (used, classes)),
                "shared_codes": (kind, (used, images * views)),
            },
        )
        arrays = {name.removeprefix("shared_"): part.numpy() for name, part in parts.items()}
        exponent = int(arrays["exponent"][0])
        if not 0 <= exponent <= 127 or used > classes or np.abs(arrays["basis"].astype(np.int64)).max(initial=0) > UNIT:
            raise BundleError("part 'shared_basis' or 'shared_exponent' is out of range", field="shared_basis")
        if arrays["codes"][:, plain].any():
            raise BundleError("part 'shared_codes' has codes of plain views, expected 0", field="shared_codes")
        decoded = self._decode(arrays["plain"], arrays["basis"], arrays["codes"], plain, exponent)
        if not np.isfinite(decoded).all():
            raise BundleError("part 'shared_codes' decodes to values beyond float32", field="shared_codes")
        return torch.from_numpy(decoded).reshape(shape)

    def tolerance(self, values: Tensor) -> Tensor:
        """The error itself: a coefficient is off by up to 0.65 steps, along any direction."""
        return measured(self, values)

    def domain(self, domain: str) -> str:
        """Logits and log-probabilities, whose steps are nats."""
        if domain not in {"logit", "logprob"}:
            raise UsageError(
                f"codec 'klt' holds logit or logprob labels, these are '{domain}'", field="codec", hint="use --codec q8"
            )
        return domain

    def check(self, views: int, classes: int) -> None:
        """There are few enough classes."""
        del views
        if classes > MOST:
            raise UsageError(
                f"codec 'klt' holds labels of up to {MOST} classes, these have {classes}",
                field="codec",
                hint="use --codec topk-ms or q4",
            )

    def _encode(self, rows: Array, plain: Array) -> dict[str, Array]:
        """The shared parts."""
        exponent, exact = 0, rows[plain].astype(np.float64)
        while np.abs(np.rint(exact / (self.step * 2.0**exponent))).max(initial=0) >= WIDEST:
            exponent += 1
        step = self.step * 2.0**exponent
        steps = np.rint(exact / step).astype(np.int16).T.copy()
        mean = _mean(steps)
        spread = (steps - mean[:, None]).astype(np.float64)
        basis = np.rint(eigenvectors(spread @ spread.T) * UNIT)
        across = np.linalg.inv(basis / UNIT)  # not the transpose: rounding leaves the basis a little skew
        codes = self._codes(rows, mean, across, step)
        codes[plain] = 0
        decoded = self._decode(steps, basis, codes.T, plain, exponent)
        for attempt in range(ROUNDS + 1):
            found = self._codes(decoded, mean, across, step)
            found[plain] = 0
            moved = (found != codes).any(axis=1)
            if not moved.any():
                break
            codes[moved] = found[moved] if attempt < ROUNDS else 0  # the mean itself is always found again
            decoded = self._decode(steps, basis, codes.T, plain, exponent)
        used = np.flatnonzero(codes.any(axis=0))
        kept = np.ascontiguousarray(codes[:, used].T)
        largest = np.abs(kept).max(initial=0)
        kind = next(kind for kind in (np.int8, np.int16, np.int32) if largest <= np.iinfo(kind).max)
        return {
            "shared_exponent": np.array([exponent], np.int16),
            "shared_plain": steps,
            "shared_basis": np.ascontiguousarray(basis[used].astype(np.int16)),
            "shared_codes": kept.astype(kind),
        }

    def _codes(self, rows: Array, mean: Array, across: Array, step: float) -> Array:
        """(m, k) int64: coefficients along the basis in steps, towards zero."""

        def work(block: Array) -> tuple[Array]:
            coefficients = (block.astype(np.float64) / step - mean) @ across
            size = np.minimum(np.floor(np.abs(coefficients) + (1 - KEEP)), np.iinfo(np.int32).max)
            return ((np.sign(coefficients) * size).astype(np.int64),)

        (codes,) = over_blocks(work, rows, width=4 * rows.shape[1])
        return codes

    def _decode(self, steps: Array, basis: Array, codes: Array, plain: Array, exponent: int) -> Array:
        """(m, k) float32; all sums are of whole numbers below 2^53."""
        scale = self.step * 2.0**exponent
        mean, vectors = _mean(steps) * UNIT, basis.astype(np.float64)

        def work(block: Array) -> tuple[Array]:
            whole = mean + block.astype(np.float64) @ vectors
            return (_float32(whole * (scale / UNIT)),)

        (decoded,) = over_blocks(work, np.ascontiguousarray(codes.T), width=4 * len(steps))
        decoded[plain] = _float32(steps.T * scale)
        return decoded


def _plain_views(images: int, views: int, classes: int) -> Array:
    """Rows of the views that are stored plainly: the first of images spread evenly over all."""
    count = min(images, PLAIN_PER_CLASS * classes)
    return np.arange(count) * images // max(1, count) * views


def _float32(values: Array) -> Array:
    """Infinite where it is too small; `decode` refuses that."""
    with np.errstate(over="ignore"):
        return np.asarray(values.astype(np.float32))


def _mean(steps: Array) -> Array:
    """Rounded mean over the plain views, (k,) int64."""
    count = max(1, steps.shape[1])
    return np.asarray((2 * steps.sum(axis=1, dtype=np.int64) + count) // (2 * count))


CODEC = Transformed
