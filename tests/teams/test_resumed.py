"""Two real processes that each continue a state of its own, from unlike moments, or refuse to."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import start

PROGRAM = Path(__file__).parent / "resumed.py"
STAGES = {
    "labels": "dense",
    "evaluation": "evaluation",
    "selections": "selections",
    "mosaics": "mosaics",
    "recovery": "sre2l",
    "experts": "experts",
}
"""Names of jobs, and what they make."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.fault(112, 113, 114)
def test_each_process_continues_its_own_state_or_all_refuse(files) -> None:
    """Also where one has none; swapped, damaged and foreign states are refused by both, naming what is wrong."""
    processes = start([PROGRAM, files.data, files.teacher, files.base, *STAGES], 2)
    outputs = [process.communicate(timeout=600) for process in processes]

    assert [0, 0] == [process.returncode for process in processes], outputs
    for rank, (out, _err) in enumerate(outputs):
        said = iter(out.splitlines())
        for name in STAGES.values():
            for moment in ("early and late", "late and early", "half and none", "none"):
                assert f"{name}, {moment}: same" == next(said)
            swapped, mixed, damaged = next(said), next(said), next(said)
            assert f"is the state of process {1 - rank} of 2, this is process {rank} of 2" in swapped
            assert "'seed' is 1, this run has 0" in mixed
            if name == "evaluation":
                assert f"{name}, damaged: nothing but a manifest" == damaged
                continue
            assert "digest mismatch" in damaged
            assert "; use --force to start over" in damaged
