"""States of several processes: each its own, or all the first one's."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ddlabel.bundle import Bundle, NewSection
from ddlabel.errors import BundleError, DdlabelError, InterruptedRunError, ResourceError, UsageError
from ddlabel.events import Event
from ddlabel.stages._partial import Progress, Task
from ddlabel.stages._stage import Clock
from ddlabel.team import ALONE, Team


@dataclasses.dataclass(frozen=True)
class Echo(Team):
    """A process whose fellows say what it says."""

    def exchange(self, own: bytes) -> list[bytes]:
        """The same from all."""
        return [own] * self.size


def task(**more: object) -> Task:
    """Some task of three steps."""
    return Task(clock=Clock(torch.device("cpu")), stage="distill", config={}, seed=0, **more)


def state(team: Team, **more: object) -> Bundle:
    """What a process keeps after two of them."""
    kept: list[Bundle] = []
    progress = Progress(save=kept.append, team=team)
    progress.begin(task(**more))
    progress.reached(2, 3, lambda: [NewSection("state.own", "state", {"state.own.rank": torch.tensor(team.rank)})])
    progress.rest()
    return kept[0]


def test_a_process_continues_its_own_state() -> None:
    """With as many others."""
    saved = Progress(saved=state(Echo(1, 2)), team=Echo(1, 2)).begin(task())[1]

    assert saved is not None
    assert (2, 3) == (saved.done, saved.total)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (Echo(0, 2), ALONE, "is the state of process 0 of 2, this is one process alone"),
        (ALONE, Echo(0, 2), "is the state of one process alone, this is process 0 of 2"),
        (Echo(1, 2), Echo(1, 3), "is the state of process 1 of 2, this is process 1 of 3"),
        (Echo(1, 3), Echo(2, 3), "is the state of process 1 of 3, this is process 2 of 3"),
    ],
)
def test_shares_of_another_number_of_processes_are_refused(before: Team, now: Team, said: str) -> None:
    """Naming both."""
    with pytest.raises(UsageError, match=said):
        Progress(saved=state(before), team=now).begin(task())


def test_all_continue_the_first_ones_state_where_all_have_the_same() -> None:
    """The others keep none."""
    kept: list[Bundle] = []
    progress = Progress(save=kept.append, leading=state(Echo(0, 2), alike=True), team=Echo(1, 2))
    saved = progress.begin(task(alike=True))[1]
    progress.reached(3, 3, list)
    progress.rest()

    assert saved is not None
    assert 2 == saved.done
    assert not kept
    assert not progress.keeps


@pytest.mark.parametrize("error", [BundleError("too many sections"), ResourceError("no space")])
def test_a_state_that_cannot_be_made_does_not_end_the_run(error: DdlabelError) -> None:
    """The result may be fine all the same; it is said."""

    def fails(_bundle: Bundle) -> None:
        raise error

    events: list[Event] = []
    progress = Progress(save=fails)
    progress.begin(task(), events.append)
    progress.reached(2, 3, list)
    progress.rest()

    assert [f"warning: the state could not be kept: {error}"] == [event.message for event in events]
    assert progress.kept is None


def test_a_signal_while_a_state_is_made_does() -> None:
    """It is no failure of the state."""

    def stopped() -> list[NewSection]:
        raise InterruptedRunError(2)

    progress = Progress(save=lambda _bundle: None)
    progress.begin(task())
    progress.reached(2, 3, stopped)
    with pytest.raises(InterruptedRunError):
        progress.rest()


class Deaf(Team):
    """A process whose fellow does something else."""

    def exchange_json(self, own: object) -> list[object]:
        """The other one begins anew, or refuses."""
        del own
        return [self.answer, [2, None]]

    answer: object = None


@pytest.mark.parametrize(
    ("answer", "said"),
    [([None, None], "would continue after None, 2 steps"), ([2, "x.partial is broken"], "is broken")],
)
def test_nobody_begins_where_another_does_otherwise(answer: object, said: str) -> None:
    """What is wrong with the other one is said."""
    team = Deaf(1, 2)
    object.__setattr__(team, "answer", answer)
    discarded: list[None] = []
    progress = Progress(
        leading=state(Echo(0, 2), alike=True),
        discard=lambda: discarded.append(None),
        save=lambda _bundle: None,
        team=team,
    )
    with pytest.raises(UsageError, match=said):
        progress.begin(task(alike=True))
    assert not discarded
