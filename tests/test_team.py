"""Processes that work together: what each of them gets, and what the others learn of one that dies."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from ddlabel import team
from ddlabel.errors import ResourceError, UsageError
from ddlabel.team import ALONE, Team, joined

PROGRAM = """
import sys
import torch
from ddlabel.errors import ResourceError
from ddlabel.team import joined

with joined() as team:
    assert team.exchange(b"x" * team.rank) == [b"", b"x"]
    assert team.exchange_json({"half": team.rank / 3}) == [{"half": 0.0}, {"half": 1 / 3}]
    both = team.exchange_tensors({f"t{team.rank}": torch.full((2, 3), team.rank / 7)})
    assert both[1]["t1"].equal(torch.full((2, 3), 1 / 7)) and list(both[0]) == ["t0"]
    assert team.add_up(torch.tensor([0.5, team.rank])).tolist() == [1.0, 1.0]
    whole = team.merge(torch.tensor([-0.0, 0.1] if team.rank else [0.0, 0.0]))
    assert whole.signbit().tolist() == [True, False] and whole[1] == torch.tensor(0.1)
    row = torch.full((3,), float(team.rank))
    team.fill(row, 1)
    assert row.tolist() == [1.0, 1.0, 1.0]
    if team.rank:
        team.send(iter([b"one", b"", b"two"]))
        assert team.told() == "first"
    else:
        assert list(team.receive(1)) == [b"one", b"", b"two"]
        team.tell("first")
    group = torch.distributed.distributed_c10d._get_default_group()
    assert 7 == group._get_backend(torch.device("cpu")).options._timeout.days
    if team.rank == 1:
        sys.exit(9)
    try:
        team.exchange(b"anyone?")
    except ResourceError as error:
        print(error)
"""


def test_shares_are_whole_and_disjoint() -> None:
    """Every item is somebody's, once."""
    shares = [Team(rank, 3).mine(range(8)) for rank in range(3)]

    assert [[0, 3, 6], [1, 4, 7], [2, 5]] == shares
    assert list(range(8)) == Team(0, 3).in_order(shares)


def test_alone_nothing_is_exchanged() -> None:
    """The same calls without anybody else."""
    values = {"a": torch.ones(2)}

    assert [b"x"] == ALONE.exchange(b"x")
    assert [{"a": 1}] == ALONE.exchange_json({"a": 1})
    assert values["a"] is ALONE.exchange_tensors(values)[0]["a"]
    assert values["a"] is ALONE.add_up(values["a"])
    assert values["a"] is ALONE.merge(values["a"])
    assert ALONE.told() is None


def test_half_of_what_torchrun_sets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names what is missing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is missing"), joined():
        pass


@pytest.mark.timeout(60)
def test_a_process_that_never_comes_is_waited_for_some_minutes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells of one that died before it joined."""
    monkeypatch.setattr(team, "ARRIVAL", timedelta(seconds=1))
    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))

    with pytest.raises(ResourceError, match="another process of this run is gone or cannot be reached"), joined():
        pass


def start(program: str, rank: int, size: int, port: int) -> subprocess.Popen[str]:
    """One process of a team, as torchrun starts it."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    """One that nobody listens at."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_two_processes_exchange_and_notice_a_death() -> None:
    """Bytes, JSON, tensors and sums arrive; the survivor is told to resume."""
    port = free_port()
    processes = [start(PROGRAM, rank, 2, port) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]

    assert [0, 9] == [process.returncode for process in processes], outputs
    assert "another process of this run is gone" in outputs[0][0]
    assert "--resume" in outputs[0][0]
