"""Philox4x32-10 against its published answers, a second implementation in whole numbers, and counts of its words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddlabel.philox import below, philox

WORD = st.integers(0, 2**32 - 1)
ONES = 2**32 - 1


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [
        (0, (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (2**64 - 1, (ONES, ONES, ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_known_answers(key: int, counter: tuple[int, ...], answer: str) -> None:
    """The vectors of Random123."""
    assert answer.split() == [f"{int(word):08x}" for word in philox(key, *counter)]


def reference(key: int, counter: tuple[int, ...]) -> list[int]:
    """Ten rounds in Python's integers."""
    (a, b, c, d), low, high = counter, key % 2**32, key >> 32
    for _round in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ low, second % 2**32, (first >> 32) ^ d ^ high, first % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64 - 1), st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5))
def test_arrays_of_counters_give_what_each_gives_alone(key: int, counters: list[tuple[int, ...]]) -> None:
    """Any key, any counters, any batch."""
    words = np.stack(philox(key, *np.array(counters).T), axis=1)

    assert [reference(key, counter) for counter in counters] == words.tolist()


def test_words_of_neighbouring_counters_are_uniform_and_independent() -> None:
    """Chi-square of 16 cells for each word, and of 16 x 16 cells for neighbours, below their 99.99 % points."""
    words = philox(7, np.arange(40_000), 3, 0, 1)
    cells = [below(word, 16) for word in words]
    for cell in cells:
        assert float(((np.bincount(cell, minlength=16) - 2500.0) ** 2 / 2500).sum()) < 45
    for left, right in ((cells[0], cells[1]), (cells[0][:-1], cells[0][1:])):
        pairs = np.bincount(16 * left + right, minlength=256)
        expected = len(left) / 256
        assert float(((pairs - expected) ** 2 / expected).sum()) < 350


@given(WORD, st.integers(1, 2**31))
def test_bounded_numbers_are_scaled_words(word: int, bound: int) -> None:
    """floor(word bound / 2^32), so that the last number is reached and never passed."""
    assert word * bound // 2**32 == int(below(np.array([word], dtype=np.uint64), bound)[0])
