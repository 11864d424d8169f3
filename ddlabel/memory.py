"""Memory: how much is free, and keeping what the process freed.

The C library returns large blocks to the system after every use. On CPU a training step allocates and frees the same
few large temporaries; fetching their pages again costs a large part of the step.
`tests/benchmarks/bench_allocator.py` measures it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator, Mapping

import torch

__all__ = ["cgroup_free", "cgroup_paths", "free_memory", "keep_freed_memory", "meminfo_available"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_STEP_BYTES = 64 * 2**20
_UNLIMITED = 2**62
"""Version 1 of control groups writes "no limit" as the largest multiple of a page."""
_CGROUPS = "/sys/fs/cgroup"
_FILES = {
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By version: limit, use, and the key of `memory.stat` that counts cached files not in use."""


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


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still allocate, as far as they are known; None when they are not.

    On CPU the least of what the system has available and what the limits of its control groups leave. On CUDA what the
    driver has left and what torch holds unused.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type != "cpu":
        return None
    return min(_known_limits(), default=None)


def meminfo_available(text: str) -> int | None:
    """`MemAvailable` of `/proc/meminfo` in bytes."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and words[1:2] and words[1].isdecimal():
            return 1024 * int(words[1])
    return None


def cgroup_paths(text: str) -> dict[str, str]:
    """The memory groups of a process by version, `v1` or `v2`, from `/proc/self/cgroup`."""
    found = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found["v2"] = path
        elif "memory" in controllers.split(","):
            found["v1"] = path
    return found


def cgroup_free(limit: str, used: str, stat: Mapping[str, int], inactive: str) -> int | None:
    """What a control group leaves, in bytes; None without a limit.

    Args:
        limit, used: contents of its files.
        stat: its `memory.stat`.
        inactive: key of cached files not in use, which count as used but are given up on demand.
    """
    if not (limit.strip().isdecimal() and used.strip().isdecimal()) or int(limit) >= _UNLIMITED:
        return None
    return max(0, int(limit) - max(0, int(used) - stat.get(inactive, 0)))


def _known_limits() -> Iterator[int]:
    """Free bytes by the system and by every control group above the process that has a limit."""
    available = meminfo_available(_text("/proc/meminfo"))
    if available is not None:
        yield available
    for version, path in cgroup_paths(_text("/proc/self/cgroup")).items():
        root = os.path.join(_CGROUPS, "memory") if version == "v1" else _CGROUPS
        limit, used, inactive = _FILES[version]
        for folder in _upwards(root, path):
            texts = [_text(os.path.join(folder, name)) for name in (limit, used, "memory.stat")]
            left = cgroup_free(texts[0], texts[1], _statistics(texts[2]), inactive)
            if left is not None:
                yield left


def _upwards(root: str, path: str) -> Iterator[str]:
    """The folder of a group and those of the groups around it; in a container only the last may be there."""
    parts = [part for part in path.split("/") if part not in {"", "..", "."}]
    for count in range(len(parts), -1, -1):
        yield os.path.join(root, *parts[:count])


def _statistics(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _text(path: str) -> str:
    """A small file of the system; empty where there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="ascii") as file:
        return file.read()
    return ""
