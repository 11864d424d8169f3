"""Curves as tables of whole numbers, built in decimal arithmetic so that they are the same on every platform."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATIO_BITS", "beta_table", "ratio_table"]

DIGITS = 30
RATIO_STEPS = 4096
RATIO_BITS = 28
BETA_STEPS = 256
MAX_STEPS = 200
"""Most terms of the series and most steps towards a root; both need about 60."""


@lru_cache(maxsize=1)
def ratio_table() -> NDArray[np.uint64]:
    """Aspect ratios from 3/4 to 4/3, uniform in their logarithm: 2^28 (3/4) (16/9)^((k + 1/2) / 4096), rounded.

    Returns:
        (4096,) rising; entry 4095 - k is the reciprocal of entry k.
    """
    with localcontext(Context(prec=DIGITS)):
        step = (Decimal(16) / 9).ln() / (2 * RATIO_STEPS)
        factor, value = (2 * step).exp(), Decimal(3) / 4 * step.exp() * 2**RATIO_BITS
        values = []
        for _index in range(RATIO_STEPS):
            values.append(int(value.to_integral_value()))
            value *= factor
    return np.array(values, dtype=np.uint64)


@lru_cache(maxsize=8)
def beta_table(alpha: str) -> NDArray[np.uint64]:
    """Quantiles of Beta(a, a) in units of 2^-32.

    Args:
        alpha: a > 0 as a decimal number.

    Returns:
        (257,) rising from 0 to 2^32: entry k is the quantile of k / 256, rounded; the second half mirrors the first.
    """
    with localcontext(Context(prec=DIGITS)):
        shape = Decimal(alpha)
        half = _beta(Decimal("0.5"), shape, _series(shape))
        lower = _quantiles(shape, half)
        values = [int((value * 2**32).to_integral_value()) for value in lower]
    return np.array([*values, *(2**32 - value for value in reversed(values[:-1]))], dtype=np.uint64)


def _quantiles(alpha: Decimal, half: Decimal) -> list[Decimal]:
    """Quantiles of k / 256 for k up to 128, each by Newton's method between the last one and 1/2."""
    series, found = _series(alpha), [Decimal(0)]
    for index in range(1, BETA_STEPS // 2):
        share = half * 2 * index / BETA_STEPS
        low, high = found[-1], Decimal("0.5")
        value = min(max((share * alpha) ** (1 / alpha), low + (high - low) / 1024), (low + high) / 2)
        for _step in range(MAX_STEPS):
            gap = _beta(value, alpha, series) - share
            low, high = (low, value) if gap > 0 else (value, high)
            slope = (value * (1 - value)) ** (alpha - 1)
            following = value - gap / slope
            if not low < following < high:
                following = (low + high) / 2
            value, moved = following, abs(following - value)
            if moved < Decimal("1e-16"):
                break
        found.append(value)
    return [*found, Decimal("0.5")]


def _beta(x: Decimal, alpha: Decimal, series: list[Decimal]) -> Decimal:
    """The incomplete beta function of (a, a), not normalised, for 0 < x <= 1/2."""
    total = Decimal(0)
    for factor in reversed(series):
        total = total * x + factor
    return total * x**alpha


def _series(alpha: Decimal) -> list[Decimal]:
    """Factors f_n of x^a sum f_n x^n: (1 - a)(2 - a)...(n - a) / n! / (a + n)."""
    factors, product = [], Decimal(1)
    for index in range(MAX_STEPS // 3):
        factors.append(product / (alpha + index))
        product *= (index + 1 - alpha) / (index + 1)
    return factors
