"""Rank coding of sets: every set of up to 12 classes, and of many classes at random and at the ends."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ddlabel.codecs._subsets import subsets
from ddlabel.errors import BundleError


@pytest.mark.parametrize("classes", range(2, 13))
def test_ranks_are_a_bijection_onto_the_numbers_below_the_binomial(classes: int) -> None:
    """Every set has one rank, every rank below binom(C, k) one set, none above."""
    for count in range(1, classes):
        coder = subsets(classes, count)
        sets = itertools.combinations(range(classes), count)
        masks = np.array([[label in chosen for label in range(classes)] for chosen in sets])
        rows = coder.encode(masks)
        ranks = sorted(int.from_bytes(row.tobytes(), "little") for row in rows)

        assert list(range(math.comb(classes, count))) == ranks
        assert np.array_equal(masks, coder.decode(rows))
        if math.comb(classes, count) < 256 ** rows.shape[1]:
            beyond = math.comb(classes, count).to_bytes(rows.shape[1], "little")
            with pytest.raises(BundleError, match="stands for no set of classes"):
                coder.decode(np.frombuffer(beyond, np.uint8)[None])


CASES = [
    (17, 3), (33, 16), (49, 20), (64, 32), (65, 3), (100, 8), (100, 50), (130, 60), (700, 33), (1000, 1), (1000, 10),
    (1000, 50), (1000, 100), (1000, 200), (1000, 500), (1000, 900), (1000, 999), (10_450, 50), (5000, 600),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "count"), CASES)
def test_sets_of_many_classes_survive(classes: int, count: int) -> None:
    """Random ones, neighbours, the first, the last, and lumps; in rows of a fixed width."""
    source = np.random.Generator(np.random.PCG64(classes + count))
    masks = np.zeros((60, classes), bool)
    for index, row in enumerate(masks):
        start = (0, classes - count, int(source.integers(0, classes - count + 1)))[index % 3]
        chosen = source.permutation(classes)[:count] if index >= 30 else np.arange(start, start + count)
        row[chosen] = True
    coder = subsets(classes, count)
    rows = coder.encode(masks)

    assert (60, coder.width) == rows.shape
    assert np.array_equal(masks, coder.decode(rows))
    assert coder.width <= -(-classes // 8)


@pytest.mark.parametrize(("classes", "count", "width"), [(1000, 10, 11), (1000, 50, 39), (1000, 100, 63), (100, 8, 5)])
def test_widths(classes: int, count: int, width: int) -> None:
    """Close to log2 of the binomial: 9.7, 35.3, 58.1 and 4.7 bytes."""
    assert width == subsets(classes, count).width


@pytest.mark.fault(69)
def test_fault_69_rows_that_stand_for_no_set_are_refused() -> None:
    """Whatever the bytes: a set that encodes to the same bytes, or an error; both happen."""
    source, seen = np.random.Generator(np.random.PCG64(0)), set()
    for classes, count in ((12, 5), (100, 50), (130, 60), (1000, 10), (1000, 50), (1000, 200), (1000, 500)):
        coder = subsets(classes, count)
        good = coder.encode(np.arange(classes)[None] < count)
        for row in (*source.integers(0, 256, (40, coder.width), np.uint8), good[0], ~good[0], good[0] * 0):
            try:
                mask = coder.decode(row[None])
            except BundleError:
                seen.add("refused")
                continue
            seen.add("read")
            assert np.array_equal(row[None], coder.encode(mask))
    assert {"refused", "read"} == seen
