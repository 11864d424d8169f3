"""Work on a few rows at a time, on all threads, so that a codec needs little more memory than its input and output."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Array", "half", "over_blocks", "row_sum"]

Array = NDArray[Any]
BLOCK = 2**19
"""Values in one block: 4 MiB of float64. Smaller ones fit nearer caches, but threads then wait for each other."""
LARGEST_HALF = 65_504.0


def over_blocks(work: Callable[..., tuple[Array, ...]], *arrays: Array, width: int) -> tuple[Array, ...]:
    """Apply `work` to blocks of rows and join what it returns.

    Args:
        work: from arrays of b rows to arrays of b rows; a row of the result depends on its own row alone, so that
            neither blocks nor threads change it. It may also write into rows that it is given.
        arrays: all of m rows.
        width: values in a row of the widest array.

    Returns:
        The arrays that `work` returns, m rows each.
    """
    count, step = len(arrays[0]), max(1, BLOCK // max(1, width))
    first = work(*(array[:step] for array in arrays))
    if count <= step:
        return first
    joined = tuple(np.empty((count, *part.shape[1:]), part.dtype) for part in first)

    def put(start: int, parts: tuple[Array, ...]) -> None:
        for whole, part in zip(joined, parts, strict=True):
            whole[start : start + len(part)] = part

    def run(start: int) -> None:
        put(start, work(*(array[start : start + step] for array in arrays)))

    put(0, first)
    if torch.get_num_threads() == 1:
        for start in range(step, count, step):
            run(start)
        return joined
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(run, range(step, count, step)))
    return joined


def half(values: Array) -> Array:
    """Float64 as float16, at most its largest number, by way of float32 as torch does.

    -0 becomes 0, which decoding would lose.
    """
    finite = np.clip(values, -LARGEST_HALF, LARGEST_HALF)
    return np.asarray(finite.astype(np.float32).astype(np.float16) + np.float16(0))


def row_sum(values: Array) -> Array:
    """Sums along the last axis, added in one fixed order: the same on every machine, unlike `sum`."""
    while values.shape[-1] > 1:
        middle = values.shape[-1] // 2
        folded = values[..., :middle] + values[..., middle : 2 * middle]
        values = np.concatenate([folded, values[..., 2 * middle :]], axis=-1) if values.shape[-1] % 2 else folded
    return values[..., 0]
