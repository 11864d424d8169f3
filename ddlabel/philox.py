"""Philox4x32-10: random numbers as a function of a key and a counter (Salmon et al., SC 2011).

There is no state: the words of a counter are the same whatever was drawn before, on every platform. So a draw can be
named by what it is for, and made again alone, in any order and in batches of any size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["below", "philox"]

Words = NDArray[np.uint64]

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What the two halves of the key grow by in each round."""
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(key: int, a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> tuple[Words, Words, Words, Words]:
    """Four independent words of 32 random bits for every counter.

    Args:
        key: in [0, 2^64).
        a, b, c, d: the words of the counter, integers in [0, 2^32), of shapes that broadcast.

    Returns:
        Four arrays of the broadcast shape, uint64 with values in [0, 2^32).
    """
    x0, x1, x2, x3 = (word.astype(np.uint64) for word in np.broadcast_arrays(a, b, c, d))
    low, high = key & 0xFFFFFFFF, key >> 32
    for _round in range(ROUNDS):
        first, second = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]  # at most (2^32 - 1)^2, which 64 bits hold
        x0, x2 = (second >> HALF) ^ x1 ^ np.uint64(low), (first >> HALF) ^ x3 ^ np.uint64(high)
        x1, x3 = second & LOW, first & LOW
        low, high = (low + WEYL[0]) & 0xFFFFFFFF, (high + WEYL[1]) & 0xFFFFFFFF
    return x0, x1, x2, x3


def below(words: Words, bound: ArrayLike) -> NDArray[np.int64]:
    """Integers in [0, bound) from 32 random bits each; no value is likelier than another by more than bound / 2^32.

    Args:
        words: values in [0, 2^32).
        bound: in [1, 2^31], of a shape that broadcasts.
    """
    return ((words * np.asarray(bound).astype(np.uint64)) >> HALF).astype(np.int64)
