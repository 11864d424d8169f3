"""Eigenvectors of small symmetric matrices, with the same bits on every machine: linear algebra libraries differ."""

from __future__ import annotations

import numpy as np

from ._blocks import Array

__all__ = ["eigenvectors"]

SWEEPS = 30
TOLERANCE = 1e-13
"""Largest entry beside the diagonal that is left, relative to the largest on it."""


def eigenvectors(matrix: Array) -> Array:
    """Orthonormal eigenvectors of a symmetric matrix (k, k) float64 as rows, largest eigenvalue first.

    Jacobi's method (1846), k/2 rotations at a time that touch different rows, in an order that does not depend on the
    values: sums, products and roots of single numbers alone. The largest entry of each row is positive.
    """
    size = len(matrix)
    even = size + size % 2
    work = np.zeros((even, even))
    work[:size, :size] = matrix
    vectors = np.eye(even)
    order = np.arange(even)
    for _sweep in range(SWEEPS):
        beside = np.abs(work - np.diag(np.diag(work))).max()
        if beside <= TOLERANCE * np.abs(np.diag(work)).max(initial=0):
            break
        for _round in range(even - 1):
            first, second = order[: even // 2], order[even // 2 :][::-1]
            _rotate(work, vectors, first, second)
            order = np.concatenate([order[:1], order[-1:], order[1:-1]])
    vectors = vectors[:size] if even == size else _without_padding(vectors, size)
    values = np.diag(work)[:size]
    rows = vectors[np.argsort(-values, kind="stable")]
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return np.asarray(np.where(largest < 0, -rows, rows))


def _rotate(work: Array, vectors: Array, first: Array, second: Array) -> None:
    """Make the entries (first, second) zero; `vectors` are rows."""
    beside = work[first, second]
    turn = beside != 0
    angle = np.where(turn, work[second, second] - work[first, first], 1) / np.where(turn, 2 * beside, 1)
    tangent = np.where(angle < 0, -1.0, 1.0) / (np.abs(angle) + np.sqrt(angle * angle + 1))
    tangent = np.where(turn, tangent, 0)
    cosine = 1 / np.sqrt(tangent * tangent + 1)
    sine = tangent * cosine
    for matrix in (work, work.T, vectors):
        one, two = matrix[first].copy(), matrix[second].copy()
        matrix[first] = cosine[:, None] * one - sine[:, None] * two
        matrix[second] = sine[:, None] * one + cosine[:, None] * two


def _without_padding(vectors: Array, size: int) -> Array:
    """The padding row and column are zero, so no rotation mixes them with others."""
    return vectors[:size, :size]
