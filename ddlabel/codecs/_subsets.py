"""Which k of C classes: exact enumerative coding of subsets in rows of few bytes (Cover, 1973).

A subset is a bitmap. Two halves of n1 and n2 classes that hold k1 and k2 ids with ranks r1 and r2 have the rank
`before(k1) + r1 * binom(n2, k2) + r2`, where `before(k1)` counts the subsets whose first half holds fewer. It is a
bijection onto [0, binom(n1 + n2, k)). Words of 16 classes are looked up in a table, and merged twice to blocks of 64,
whose ranks fit 64 bits. Up to 64 classes that is all.

More classes are several blocks. How many ids each block holds is ranked by the same merge, with 1 in place of the
binomial of a block; where that would need more than 62 bits the merge stops, and the counts of what is left are
written as they are. The fields (counts, rank of the counts, rank of each block) follow one another in whole bits. A
row has as many bytes as the longest subset needs: 39 for 50 of 1000, where log2 of the binomial is 35.3 bytes.

More than half of the classes are coded by those that are missing. Where all this is longer than the bitmap, or more
than 512 ids would be coded, the bitmap is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ..errors import BundleError
from ._blocks import Array

__all__ = ["Subsets", "subsets"]

WORD, BLOCK = 16, 64
LARGEST = 2**62
MANY = 512
"""More ids than this are a bitmap: tables grow with the square."""
BUCKET_BITS = 9
"""Leading bits of a rank that say where the search for its first half starts."""


@lru_cache(maxsize=64)
def subsets(classes: int, count: int) -> Subsets:
    """The coder of `count` of `classes`, with its tables."""
    return Subsets(classes, count)


@dataclass(frozen=True)
class Subsets:
    """Codes of all subsets of one size."""

    classes: int
    """C."""
    count: int
    """k, from 1 to C - 1."""

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return -(-self.classes // 8) if self._plain else self._rank_bytes

    def encode(self, mask: Array) -> Array:
        """Masks (m, C) bool with `count` true each, as rows (m, width) uint8."""
        if self._complement:
            mask = ~mask
        if self._plain:
            return np.packbits(mask, axis=1, bitorder="little")
        blocks = len(self._sizes)
        padded = np.zeros((len(mask), 2 * -(-self.classes // WORD)), np.uint8)
        padded[:, : -(-self.classes // 8)] = np.packbits(mask, axis=1, bitorder="little")
        words = padded.view("<u2").astype(np.int64)
        counts, ranks = _WORDS.count[words], _WORDS.rank[words]
        for level in self._word_levels:
            counts, ranks = level.merge(counts, ranks)
        if blocks == 1:
            return _as_bytes(ranks[:, 0], self.width)
        writer = _Writer(len(mask), self.width)
        totals, order = counts, np.zeros_like(counts)
        for level in self._count_levels:
            totals, order = level.merge(totals, order)
        for index in range(totals.shape[1] - 1):
            writer.put(totals[:, index], self._count_bits)
        for index, table in enumerate(self._roots):
            writer.put(order[:, index], table.bits[totals[:, index]])
        for index, size in enumerate(self._sizes):
            writer.put(ranks[:, index], _binomials(size, self._most).bits[counts[:, index]])
        return writer.bytes()

    def decode(self, rows: Array) -> Array:
        """Masks (m, C) bool.

        Raises:
            BundleError: rows that `encode` does not write.
        """
        mask = self._bitmap(rows) if self._plain else self._unrank(rows)
        return ~mask if self._complement else mask

    def _bitmap(self, rows: Array) -> Array:
        bits = np.unpackbits(rows, axis=1, bitorder="little").view(bool)
        if bits[:, self.classes :].any() or (bits.sum(axis=1, dtype=np.int64) != self._most).any():
            raise _bad()
        return np.ascontiguousarray(bits[:, : self.classes])

    def _unrank(self, rows: Array) -> Array:
        blocks = len(self._sizes)
        if blocks == 1:
            ranks = _as_numbers(rows)[:, None]
            counts = np.full_like(ranks, self._most)
            _check(ranks, np.array([_binomials(self.classes, self._most).sizes[self._most]]))
        else:
            counts, ranks = self._read(rows)
        for level in reversed(self._word_levels):
            counts, ranks = level.split(counts, ranks)
        words = np.ascontiguousarray(_WORDS.word[counts * _WORDS.stride + ranks], "<u2")
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").view(bool)
        return np.ascontiguousarray(bits[:, : self.classes])

    def _read(self, rows: Array) -> tuple[Array, Array]:
        """Counts and ranks of the blocks, (m, blocks) int64."""
        reader = _Reader(rows)
        totals = np.zeros((len(rows), len(self._roots)), np.int64)
        for index in range(len(self._roots) - 1):
            totals[:, index] = reader.take(np.full(len(rows), self._count_bits))
        totals[:, -1] = self._most - totals.sum(axis=1)
        limits = np.array([len(table.sizes) - 1 for table in self._roots])
        if bool(((totals < 0) | (totals > limits)).any()):
            raise _bad()
        order = np.empty_like(totals)
        for index, table in enumerate(self._roots):
            order[:, index] = reader.take(table.bits[totals[:, index]])
            _check(order[:, index], table.sizes[totals[:, index]])
        counts = totals
        for level in reversed(self._count_levels):
            counts, order = level.split(counts, order)
        ranks = np.empty_like(counts)
        for index, size in enumerate(self._sizes):
            table = _binomials(size, self._most)
            ranks[:, index] = reader.take(table.bits[counts[:, index]])
            _check(ranks[:, index], table.sizes[counts[:, index]])
        reader.check_rest()
        return counts, ranks

    @property
    def _most(self) -> int:
        """Ids that are coded: those in the subset, or those missing from it."""
        return min(self.count, self.classes - self.count)

    @property
    def _complement(self) -> bool:
        return self.count > self._most

    @cached_property
    def _plain(self) -> bool:
        return self._most > MANY or self._rank_bytes > -(-self.classes // 8)

    @cached_property
    def _sizes(self) -> list[int]:
        """Classes of each block; one block where its rank fits."""
        whole = math.comb(self.classes, self._most) <= LARGEST
        return [self.classes] if whole else _cut(self.classes, BLOCK)

    @cached_property
    def _word_levels(self) -> list[_Level]:
        """From words to blocks: 16 to 32 to 64 classes, and on where there is but one block."""
        levels: list[_Level] = []
        tables = [_binomials(size, self._most) for size in _cut(self.classes, WORD)]
        while len(tables) > len(self._sizes):
            level = _Level(tables, self._most)
            levels.append(level)
            tables = level.merged
        return levels

    @cached_property
    def _count_levels(self) -> list[_Level]:
        """From blocks to everything, as far as 62 bits reach."""
        tables = [_counted(size, self._most) for size in self._sizes]
        levels: list[_Level] = []
        while len(tables) > 1:
            level = _Level(tables, self._most)
            if level.too_large:
                break
            levels.append(level)
            tables = level.merged
        return levels

    @cached_property
    def _roots(self) -> list[_Table]:
        if self._count_levels:
            return self._count_levels[-1].merged
        return [_counted(size, self._most) for size in self._sizes]

    @property
    def _count_bits(self) -> int:
        return int(self._most).bit_length()

    @cached_property
    def _rank_bytes(self) -> int:
        """Bytes of the longest row: the largest sum of field lengths over all ways to share ids among blocks."""
        if len(self._sizes) == 1:
            return -(-(math.comb(self.classes, self._most) - 1).bit_length() // 8)
        blocks = [_binomials(size, self._most).bits for size in self._sizes]
        share = -(-len(blocks) // len(self._roots))  # every root but the last has as many blocks, a power of two
        if len(self._roots) > 1:
            share = 2 ** len(self._count_levels)
        total = np.zeros(1, np.int64)
        for index, root in enumerate(self._roots):
            inside = np.zeros(1, np.int64)
            for bits in blocks[index * share : (index + 1) * share]:
                inside = _longest(inside, bits, self._most)
            total = _longest(total, inside + root.bits[: len(inside)], self._most)
        fixed = self._count_bits * (len(self._roots) - 1)
        return -(-(int(total[self._most]) + fixed) // 8)


class _Table:
    """How many arrangements a part of the classes has for each number of ids in it."""

    def __init__(self, sizes: Array) -> None:
        self.sizes = sizes
        """(K + 1,) int64."""
        self.bits = np.array([(int(size) - 1).bit_length() for size in sizes], np.int64)
        """Bits that hold any rank below the size."""


@lru_cache(maxsize=256)
def _binomials(size: int, most: int) -> _Table:
    """Subsets of up to `most` of `size` classes."""
    return _Table(np.array([math.comb(size, count) for count in range(min(size, most) + 1)], np.int64))


@lru_cache(maxsize=256)
def _counted(size: int, most: int) -> _Table:
    """A block of which only the number of ids matters: one arrangement for each."""
    return _Table(np.ones(min(size, most) + 1, np.int64))


class _Level:
    """Merging of neighbours: parts 0 and 1, 2 and 3, and so on, all rows at once; an odd last part stays.

    Blocks are even numbers of words but for the last one, so that neighbours always belong to one block.

    Args:
        tables: of the parts.
        most: ids there are in all.
    """

    def __init__(self, tables: list[_Table], most: int) -> None:
        self.parts, self.pairs = len(tables), len(tables) // 2
        both = list(zip(tables[0::2], tables[1::2], strict=False))
        self.stride = min(most, max(len(one.sizes) + len(two.sizes) for one, two in both)) + 2
        known: dict[tuple[int, int], tuple[int, _Table]] = {}  # parts of equal sizes share their tables
        offsets: list[Array] = []
        seconds: list[Array] = []
        starts: list[Array] = []
        shifts: list[Array] = []
        which: list[int] = []
        self.merged: list[_Table] = []
        for one, two in both:
            key = (id(one), id(two))
            if key not in known:
                table, sizes = _offsets(one.sizes, two.sizes, most, self.stride)
                known[key] = len(offsets), _Table(sizes)
                start, shift = _buckets(table, known[key][1])
                offsets.append(table)
                seconds.append(np.pad(two.sizes, (0, self.stride - len(two.sizes))))
                starts.append(start)
                shifts.append(shift)
            index, merged = known[key]
            which.append(index)
            self.merged.append(merged)
        self.too_large = any(bool((table.sizes > LARGEST).any()) for _index, table in known.values())
        self.merged += tables[2 * self.pairs :]
        self.base = np.array(which, np.int64) * self.stride
        self.offsets, self.seconds = np.concatenate(offsets).reshape(-1), np.concatenate(seconds)
        self.starts, self.shifts = np.concatenate(starts).reshape(-1), np.concatenate(shifts)

    def merge(self, counts: Array, ranks: Array) -> tuple[Array, Array]:
        """Counts and ranks (m, parts) of the parts as those of the merged parts."""
        end = 2 * self.pairs
        two = counts[:, 1:end:2]
        both = counts[:, 0:end:2] + two
        joined = self.offsets.take((self.base + both) * self.stride + counts[:, 0:end:2])
        joined += ranks[:, 0:end:2] * self.seconds.take(self.base + two) + ranks[:, 1:end:2]
        if end == self.parts:
            return both, joined
        return np.concatenate([both, counts[:, end:]], axis=1), np.concatenate([joined, ranks[:, end:]], axis=1)

    def split(self, counts: Array, ranks: Array) -> tuple[Array, Array]:
        """The reverse; ranks must be below the sizes of the merged parts."""
        both, joined = counts[:, : self.pairs], ranks[:, : self.pairs]
        at = self.base + both
        one = self.starts.take((at << BUCKET_BITS) + (joined >> self.shifts.take(at)))
        row = np.multiply(at, self.stride, order="C")
        row += one
        behind = np.flatnonzero(self.offsets.take(row + 1) <= joined)
        flat_row, flat_one, flat_joined = row.reshape(-1), one.reshape(-1), np.ascontiguousarray(joined).reshape(-1)
        while behind.size:  # few: those whose bucket holds a boundary
            flat_row[behind] += 1
            flat_one[behind] += 1
            behind = behind[self.offsets.take(flat_row[behind] + 1) <= flat_joined[behind]]
        left = joined - self.offsets.take(row)
        two = both - one
        divisor = self.seconds.take(self.base + two)
        quotient = left // np.maximum(divisor, 1)
        return self._spread(one, two, counts), self._spread(quotient, left - quotient * divisor, ranks)

    def _spread(self, one: Array, two: Array, merged: Array) -> Array:
        parts, end = np.empty((len(one), self.parts), np.int64), 2 * self.pairs
        parts[:, 0:end:2] = one
        parts[:, 1:end:2] = two
        parts[:, end:] = merged[:, self.pairs :]
        return parts


def _offsets(first: Array, second: Array, most: int, stride: int) -> tuple[Array, Array]:
    """Table (stride, stride): [k, k1] arrangements of k with fewer than k1 in the first part; and all of each k.

    Impossible k1 add nothing, so their offsets equal the next possible one and the search passes them by: beyond the
    last possible k1 the offset is larger than any rank.
    """
    top = min(most, len(first) + len(second) - 2)
    table = np.full((stride, stride), np.iinfo(np.int64).max, np.int64)
    sizes = []
    for both in range(top + 1):
        total = 0
        for one in range(min(both, len(first) - 1) + 1):
            table[both, one] = min(total, LARGEST)
            if both - one < len(second):
                total += int(first[one]) * int(second[both - one])
        sizes.append(min(total, LARGEST + 1))
    return table, np.array(sizes, np.int64)


def _buckets(offsets: Array, table: _Table) -> tuple[Array, Array]:
    """Where to start the search in each row of `offsets`, by the leading bits of a rank; and how far to shift it."""
    stride = len(offsets)
    starts, shifts = np.zeros((stride, 1 << BUCKET_BITS), np.int64), np.zeros(stride, np.int64)
    for both, bits in enumerate(table.bits):
        shifts[both] = max(0, int(bits) - BUCKET_BITS)
        ranks = np.arange(1 << BUCKET_BITS) << shifts[both]
        found = np.searchsorted(offsets[both], ranks, side="right") - 1
        starts[both] = np.minimum(found, stride - 2)
    return starts, shifts


class _Words:
    """Every word of 16 classes: how many ids it holds, and its rank among the words that hold as many."""

    stride = 2**14  # above binom(16, 8) = 12,870

    def __init__(self) -> None:
        numbers = np.arange(2**WORD)
        bits = (numbers[:, None] >> np.arange(WORD)) & 1
        self.count = bits.sum(axis=1)
        self.rank = np.zeros(2**WORD, np.int64)
        self.word = np.zeros((WORD + 1) * self.stride, np.uint16)
        for count in range(WORD + 1):
            members = numbers[self.count == count]
            self.rank[members] = np.arange(len(members))
            self.word[count * self.stride : count * self.stride + len(members)] = members


_WORDS = _Words()


class _Writer:
    """Fields of up to 62 bits, one behind the other, in rows of bytes; the first bits are the lowest."""

    def __init__(self, rows: int, width: int) -> None:
        self.width = width
        self.words = np.zeros((rows, width // 8 + 2), np.uint64)
        self.position = np.zeros(rows, np.int64)
        self.rows = np.arange(rows)

    def put(self, values: Array, bits: Array | int) -> None:
        """Append values (m,) int64 below 2^bits."""
        word, shift = self.position >> 6, (self.position & 63).astype(np.uint64)
        unsigned = values.astype(np.uint64)
        self.words[self.rows, word] |= unsigned << shift
        self.words[self.rows, word + 1] |= (unsigned >> np.uint64(1)) >> (np.uint64(63) - shift)
        self.position += bits

    def bytes(self) -> Array:
        """(m, width) uint8."""
        return np.ascontiguousarray(self.words.astype("<u8", copy=False).view(np.uint8)[:, : self.width])


class _Reader:
    """The same fields back."""

    def __init__(self, rows: Array) -> None:
        width = rows.shape[1]
        padded = np.zeros((len(rows), (width // 8 + 2) * 8), np.uint8)
        padded[:, :width] = rows
        self.words = padded.view("<u8").astype(np.uint64, copy=False)
        self.position = np.zeros(len(rows), np.int64)
        self.rows = np.arange(len(rows))
        self.end = 8 * width

    def take(self, bits: Array) -> Array:
        """The next values, (m,) int64.

        Raises:
            BundleError: a row ends before.
        """
        word, shift = self.position >> 6, (self.position & 63).astype(np.uint64)
        self.position = self.position + bits
        if bool((self.position > self.end).any()):
            raise _bad()
        low = self.words[self.rows, word] >> shift
        high = (self.words[self.rows, word + 1] << np.uint64(1)) << (np.uint64(63) - shift)
        mask = (np.uint64(1) << bits.astype(np.uint64)) - np.uint64(1)
        return np.asarray(((low | high) & mask).astype(np.int64))

    def check_rest(self) -> None:
        """Refuse bits behind the last field."""
        index = np.arange(self.words.shape[1])
        behind = self.position[:, None] - 64 * index
        rest = np.where(behind <= 0, self.words, self.words >> np.clip(behind, 0, 63).astype(np.uint64))
        if bool((np.where(behind >= 64, 0, rest) != 0).any()):
            raise _bad()


def _cut(classes: int, size: int) -> list[int]:
    return [min(size, classes - start) for start in range(0, classes, size)]


def _longest(first: Array, second: Array, most: int) -> Array:
    """Largest sum of first[i] + second[j] for each i + j up to `most`."""
    top = min(most, len(first) + len(second) - 2)
    longest = np.zeros(top + 1, np.int64)
    for one, bits in enumerate(first[: top + 1]):
        part = second[: top + 1 - one] + bits
        longest[one : one + len(part)] = np.maximum(longest[one : one + len(part)], part)
    return longest


def _as_bytes(ranks: Array, width: int) -> Array:
    """(m, width) uint8 of ranks (m,) int64, lowest byte first."""
    return np.ascontiguousarray(ranks.astype("<i8").view(np.uint8).reshape(len(ranks), 8)[:, :width])


def _as_numbers(rows: Array) -> Array:
    padded = np.zeros((len(rows), 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    return np.asarray(padded.view("<i8")[:, 0].astype(np.int64))


def _check(ranks: Array, sizes: Array) -> None:
    if bool(((ranks < 0) | (sizes <= ranks.T).T).any()):
        raise _bad()


def _bad() -> BundleError:
    return BundleError("part 'ids': a row stands for no set of classes", field="ids")
