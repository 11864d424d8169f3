"""`--processes N`: how many processes a command is, which of them this one is, and how one that was started ends.

The first process starts the others (`_others`), which run the same command line. The stdin of another one is a pipe
that the first one alone holds open, so that it learns when that one is gone, however it went.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ResourceError, UsageError
from ..team import place
from ._others import GRACE_S, Others

__all__ = ["follow", "gathering", "launched", "orphaned", "team_size", "with_own_threads"]

LEADER = "DDLABEL_LEADER"
"""Environment variable of such a team: number of its first process."""
_GPUS = "/proc/driver/nvidia/gpus"


def team_size(processes: int | None, device: str, jobs: int | None) -> int:
    """How many processes there shall be.

    Args:
        processes: as typed; None is one for each core, or for each GPU where GPUs compute.
        device: as typed.
        jobs: how many there are to share, where that is known.

    Raises:
        UsageError: torchrun has started some already.
    """
    if processes == 1:
        return 1
    if place()[1] > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        raise UsageError(
            "option 'processes' starts processes, and so did torchrun, expected one of the two",
            field="processes",
            hint="drop --processes, or run it without torchrun",
        )
    if processes is not None:
        return processes
    most = _usable_cores() if device == "cpu" else _devices(device)
    return max(1, most if jobs is None else min(most, jobs))


def _usable_cores() -> int:
    """Of the machine, by this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices(device: str) -> int:
    """How many processes have a device of their own, without importing torch, which knows."""
    if device not in {"auto", "cuda"} or (device == "auto" and sys.platform == "darwin"):
        return 1  # all would share it
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    else:
        gpus = len(os.listdir(_GPUS)) if os.path.isdir(_GPUS) else 0
    return gpus or _usable_cores()


def launched() -> bool:
    """Whether this process is of a team that its first process started, or will."""
    return LEADER in os.environ


def with_own_threads(record: Any) -> Any:
    """A stage's options with the share of the cores that each process of such a team has, where nobody said a number.

    All processes come to the same, and so does one alone that is given it as `--threads`.
    """
    if not launched() or record.threads:
        return record
    return dataclasses.replace(record, threads=max(1, _usable_cores() // place()[1]))


@contextlib.contextmanager
def gathering(size: int, words: Sequence[str]) -> Iterator[Others | None]:
    """Be the first process of a team while inside, as far as the environment says; nobody is started yet.

    Args:
        size: of the team; with 1 nothing changes.
        words: the command line.

    Raises:
        ResourceError: processes cannot talk on this machine.
    """
    if size == 1:
        yield None
        return
    import socket

    try:
        listener = socket.create_server(("127.0.0.1", 0), backlog=size)
    except OSError as error:
        raise ResourceError(
            f"processes cannot reach each other at 127.0.0.1 ({error.strerror})", field="processes"
        ) from error
    own = {
        LEADER: os.getpid(), "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": listener.getsockname()[1],
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in own}
    os.environ.update({name: str(value) for name, value in own.items()})
    try:
        with listener:
            yield Others(_without_option(words), size, listener)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def _without_option(words: Sequence[str]) -> list[str]:
    """A command line without `--processes`, which no other option has as its value."""
    kept: list[str] = []
    tokens = iter(words)
    for token in tokens:
        if token == "--":
            return [*kept, token, *tokens]
        if token == "--processes":
            next(tokens, None)
        elif not token.startswith("--processes="):
            kept.append(token)
    return kept


def follow() -> None:
    """In a process that another one started: stop when that one is gone, and some time later by force."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(128 + signal.SIGTERM)

    if launched() and place()[0]:
        threading.Thread(target=wait, daemon=True).start()


def orphaned() -> bool:
    """Whether the process that started this one is gone."""
    return bool(select.select([0], [], [], 0.5)[0])
