"""Keeping freed memory in the process: the C library otherwise returns large blocks to the system after every use.

On CPU a training step allocates and frees the same few large temporaries; fetching their pages again costs a large
part of the step. `tests/benchmarks/bench_allocator.py` measures it.
"""

from __future__ import annotations

import ctypes
import functools
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_STEP_BYTES = 64 * 2**20


@functools.cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory and to take large blocks from its heap; elsewhere nothing happens.

    Returns:
        Whether the C library took the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _STEP_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
