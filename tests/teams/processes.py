"""Processes that belong together, started as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment() -> dict[str, str]:
    """Of a process that computes with one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(arguments: Sequence[str | Path], size: int) -> list[subprocess.Popen[str]]:
    """`python ARGUMENTS` as so many processes."""
    shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=environment()
            | {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def torchrun(arguments: Sequence[str | Path], size: int) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node SIZE -m ddlabel ARGUMENTS`; what all of them say on stderr comes in one pipe."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    port = ["--master-port", str(free_port())]
    return subprocess.Popen(
        [*command, *port, "-m", "ddlabel", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
