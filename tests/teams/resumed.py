"""Run as one of two processes: stages that each of them continues from a state of its own; prints what comes of it.

Usage: resumed.py DATA TEACHER BASE NAME...
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from unittest import mock

from ddlabel.bundle import Bundle
from ddlabel.errors import DdlabelError
from ddlabel.stages import _jobs, _labelling, _partial
from ddlabel.stages._partial import Progress
from ddlabel.team import Team, joined
from tests.teams.jobs import Job, Jobs

MOMENTS = {
    "early and late": (0.0, 1.0),
    "late and early": (1.0, 0.0),
    "half and none": (0.5, None),
    "none": (None, 0.5),
}
"""Which of its states the first process has, and which the other one: a share of them all."""


def states_of(job: Job, team: Team) -> tuple[Bundle, list[bytes]]:
    """The result of an undisturbed run, and every state that this process keeps on the way."""
    states: list[bytes] = []

    def save(bundle: Bundle) -> None:
        stream = io.BytesIO()
        bundle.write_to(stream)
        states.append(stream.getvalue())

    with mock.patch.multiple(_partial, INTERVAL_S=0.0, SHARE=1e9), mock.patch.multiple(_jobs, PAUSE_S=0.0, SHARE=1e9):
        return job(team, progress=Progress(save=save, team=team)), states


def outcome(job: Job, team: Team, state: bytes | None, whole: Bundle) -> str:
    """What comes of continuing a state."""
    saved = None if state is None else io.BytesIO(state)
    try:
        opened = None if saved is None else Bundle.open(saved)
        made = job(team, progress=Progress(saved=opened, save=lambda _bundle: None, team=team))
    except DdlabelError as error:
        return str(error)
    return "same" if made.content == whole.content else "other bits"


def lines(name: str, job: Job, other: Job, team: Team) -> Iterator[str]:
    """Of one stage."""
    whole, states = states_of(job, team)
    _whole, others = states_of(other, team)
    for moment, shares in MOMENTS.items():
        share = shares[team.rank]
        yield f"{name}, {moment}: {outcome(job, team, _at(states, share), whole)}"
    swapped = [team.exchange(state)[1 - team.rank] for state in (states[-1], others[-1])]
    yield f"{name}, swapped: {outcome(job, team, swapped[0], whole)}"
    mixed = others[-1] if team.rank else states[-1]
    yield f"{name}, of another run: {outcome(job, team, mixed, whole)}"
    damaged = _damaged(states[-1])
    if team.exchange_json(damaged is not None)[1]:
        yield f"{name}, damaged: {outcome(job, team, damaged if team.rank else states[-1], whole)}"
    else:
        yield f"{name}, damaged: nothing but a manifest"


def _damaged(state: bytes) -> bytes | None:
    """With one bit of a tensor flipped, which shows when that is read; None where there is no tensor."""
    for place in range(len(state) - 1, 0, -8):
        flipped = state[:place] + bytes([state[place] ^ 1]) + state[place + 1 :]
        with contextlib.suppress(DdlabelError):
            if Bundle.open(io.BytesIO(flipped)).verify():
                return flipped
    return None


def _at(states: list[bytes], share: float | None) -> bytes | None:
    return None if share is None else states[int(share * (len(states) - 1))]


def main(data: str, teacher: str, base: str, *names: str) -> None:
    """The lines of each stage, by both processes."""
    jobs = Jobs(data, teacher, base)
    _labelling.VIEWS_AT_ONCE = 3
    with joined() as team:
        for name in names:
            ((title, job),) = jobs.named(name)
            ((_title, other),) = Jobs(data, teacher, base, seed=1).named(name)
            for line in lines(title, job, other, team):
                print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
