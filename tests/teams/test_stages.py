"""Stages of several processes: the bits of one process, and what cannot be shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import start

PROGRAM = Path(__file__).parent / "jobs.py"
QUICK = {
    "experts": ["experts"],
    "matching": ["dm"],
    "selection": ["selection"],
    "recovery": ["sre2l"],
    "labels": ["dense"],
}
"""Names of jobs, and what they make."""
CORESETS = ("herding", "k-center", "least-confidence", "entropy", "margin", "el2n", "grand", "glister", "craig")
SLOW = {
    "scores": ["scores", "one expert"],
    "gradients": ["dc", "dsa", "dc, batch norm", "glad"],
    "coresets": [*CORESETS, "forgetting"],
    "more recovery": ["sre2l by class", "rded", "g-vbsm"],
    "more labels": ["soft", "feature", "fkd", "attention"],
    "refused": [],
}


def run(files, names: list[str], size: int) -> list[str]:
    """What the processes say of their jobs."""
    processes = start([PROGRAM, files.data, files.teacher, files.base, *names], size)
    outputs = [process.communicate(timeout=280) for process in processes]

    assert [0] * size == [process.returncode for process in processes], outputs
    assert all(out == "" for out, _err in outputs[1:]), outputs
    return outputs[0][0].splitlines()


def test_two_processes_make_what_one_makes(files) -> None:
    """One job of every kind, in one pair of processes, since starting them takes longest."""
    assert [f"{made}: same" for each in QUICK.values() for made in each] == run(files, list(QUICK), 2)


@pytest.mark.slow
def test_every_shared_method_and_kind_of_labels(files) -> None:
    """The same of all others, and refusals of what would be done twice."""
    assert [f"{made}: same" for each in SLOW.values() for made in each] == run(files, list(SLOW), 2)


@pytest.mark.slow
def test_three_processes_make_what_one_makes(files) -> None:
    """Shares are unequal, and some processes have none."""
    assert [f"{made}: same" for each in QUICK.values() for made in each] == run(files, list(QUICK), 3)
