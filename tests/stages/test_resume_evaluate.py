"""`evaluate` stopped anywhere and continued, and shared by processes: the same record, bit for bit."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.config import EvaluateConfig
from ddlabel.errors import BundleError, UsageError
from ddlabel.events import Event
from ddlabel.stages import _jobs, _partial, evaluate
from ddlabel.stages._gradcam import Overlays
from ddlabel.stages._jobs import Job, Jobs, Outcome, share
from ddlabel.stages._partial import Progress
from ddlabel.stages._students import Watch
from ddlabel.team import Team

NET = "convnet-d1-w4"
SMALL = {"arch": ("mlp",), "epochs": 3, "seeds": 2, "threads": 1}


@dataclasses.dataclass(frozen=True)
class Case:
    """One evaluation that is cut short."""

    bundle: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: bool = False
    every: int = 1
    """Of its states, which ones are continued in the quick test."""


CASES = {
    "baselines": Case(
        "soft",
        {"baselines": True, "arch": ("mlp", NET), "seeds": 1, "gradcam": "maps", "epochs": 2},
        teacher=True,
        every=9,
    ),
    "several looks, Adam and averages": Case(
        "dense",
        {"arch": (f"{NET}-batch",), "protocol": "glad", "optimizer": ("adam",), "seeds": 1, "epochs": 5},
        {"ema": "true"},
        every=2,
    ),
    "equal bytes": Case("dense", {"equal_bytes": True, "seeds": 1}, every=5),
    "incremental": Case("soft", {"incremental": (3,), "orders": 2, "seeds": 1, "epochs": 2}, every=7),
    "ranking": Case("base", {"protocol": "ddranking", "epochs": 1}, {"rates": "1e30,0.1", "real_epochs": 1}, every=9),
    "live teacher": Case("soft", {"labels": "online", "seeds": 1}, {"self_test": 0}, teacher=True, every=3),
}


Start = Callable[..., Bundle]


@pytest.fixture
def start(files) -> Callable[[Case], Start]:
    """An evaluation of a case."""
    teachers = [Bundle.open(files.teacher)]

    def of(case: Case) -> Start:
        config = EvaluateConfig(**{"data": files.data, **SMALL, **case.options})
        bundle = Bundle.open(getattr(files, case.bundle))
        used = teachers if case.teacher else []
        return lambda **more: evaluate.run(bundle, config, dict(case.settings), teachers=used, **more)

    return of


def states_of(run: Start, monkeypatch: pytest.MonkeyPatch, *, inside: bool = True) -> list[Bundle]:
    """Every state of an undisturbed run, also those within students."""
    states: list[Bundle] = []
    with monkeypatch.context() as patch:
        patch.setattr(_partial, "INTERVAL_S", 0.0)
        patch.setattr(_partial, "SHARE", 1e9)
        patch.setattr(_jobs, "PAUSE_S", 0.0 if inside else 1e9)
        patch.setattr(_jobs, "SHARE", 1e9)
        run(progress=Progress(save=states.append))
    return states


def done(bundle: Bundle) -> int:
    return int(bundle.section(_partial.PROGRESS).parameters["done"])


@pytest.mark.fault(114)
@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_stopped_anywhere_and_continued_equals_never_stopped(start, monkeypatch, case: Case, thorough: bool) -> None:
    """From the state after every job and after every epoch of every student; maps too."""
    run, whole_maps = start(case), list[Overlays]()
    whole = run(on_overlays=whole_maps.append)
    states = states_of(run, monkeypatch)

    assert any(state.has(_jobs.STUDENT) for state in states)
    assert {done(states[-1])} == {state.section(_partial.PROGRESS).parameters["total"] for state in states}
    for state in states[:: 1 if thorough else case.every]:
        maps: list[Overlays] = []
        continued = run(progress=Progress(saved=state), on_overlays=maps.append)

        assert whole.content == continued.content, f"after {done(state)} jobs"
        for ours, theirs in zip(whole_maps, maps, strict=True):
            assert ours.arch == theirs.arch
            assert all(
                getattr(ours, name).equal(getattr(theirs, name))
                for name in ("indices", "pixels", "labels", "predicted", "raw", "maps")
            )


def test_what_is_finished_is_not_done_again(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither students nor the plain baseline; of a student the epochs before are not trained again."""
    run = start(CASES["equal bytes"])
    states = states_of(run, monkeypatch)
    inside = [state for state in states if state.has(_jobs.STUDENT)][-1]
    events: list[Event] = []
    run(progress=Progress(saved=inside), on_event=events.append)
    phases = {event.phase for event in events if event.metrics}

    assert (4, 3) == (max(map(done, states)), done(inside))
    assert not any(event.phase in {"plain baseline", "distilling"} for event in events)
    assert 1 == len(phases)
    assert {3} == {event.done for event in events if event.metrics and event.done != event.total}
    assert "continuing a student after epoch 3" in [event.message for event in events]


def test_short_students_are_never_copied(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs may take less time than a copy: it is taken every few seconds of training at most."""
    states = states_of(start(CASES["baselines"]), monkeypatch, inside=False)

    assert not any(state.has(_jobs.STUDENT) for state in states)
    assert list(range(1, len(states) + 1)) == [done(state) for state in states]


@pytest.mark.fault(112)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 3}, "option 'seeds' is 2, this run has 3"),
        ({"arch": (NET,)}, "this run has"),
        ({"settings": {"lr": "0.2"}}, "option 'set.lr' is 0.1, this run has 0.2"),
        ({"picture": "p.svg"}, "option 'picture' is null, this run has p.svg"),
    ],
    ids=["seeds", "net", "set", "picture"],
)
def test_other_options_are_refused(start, monkeypatch, changes: dict[str, Any], said: str) -> None:
    """Also those of `--set`, which the history does not hold."""
    case = Case("base", {"arch": ("mlp",), "epochs": 1}, {"lr": "0.1"})
    left = states_of(start(case), monkeypatch)[0]
    settings = {**case.settings, **changes.pop("settings", {})}
    other = dataclasses.replace(case, options={**case.options, **changes}, settings=settings)
    with pytest.raises(UsageError) as caught:
        start(other)(progress=Progress(saved=left, save=lambda _bundle: None))

    assert said in str(caught.value)


@pytest.mark.fault(112)
def test_another_teacher_is_refused(start, files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, by its digest."""
    case = CASES["live teacher"]
    left = states_of(start(case), monkeypatch)[0]
    other = Bundle.open(files.teacher).with_stage(StageRecord("refine", {}, 1, [], {}, 0.0, 0.0, {}))
    config = EvaluateConfig(**{"data": files.data, **SMALL, **case.options})
    with pytest.raises(BundleError, match="'input 2' is"):
        evaluate.run(
            Bundle.open(files.soft), config, dict(case.settings), teachers=[other], progress=Progress(saved=left)
        )


@pytest.mark.fault(113)
@pytest.mark.parametrize("parameters", [{}, {"records": 3}, {"records": {"mlp.0.0": 5}}], ids=str)
def test_records_that_make_no_sense_are_refused(start, monkeypatch, parameters: dict[str, Any]) -> None:
    """Whoever wrote them."""
    case = Case("base", {"epochs": 1})
    left = states_of(start(case), monkeypatch)[0]
    section = NewSection(_jobs.OUTCOMES, "state", {}, parameters=parameters)
    entry = left.manifest.history[-1]
    record = StageRecord("evaluate", entry["config"], entry["seed"], [], {}, 0.0, 0.0, entry["host"])
    sections = [
        NewSection(_partial.PROGRESS, "state", {}, parameters=left.section(_partial.PROGRESS).parameters),
        section,
    ]
    state = Bundle.create("partial", left.manifest.data, record, sections)
    monkeypatch.setattr(Progress, "_refuse_differences", lambda *_given: None)
    with pytest.raises(BundleError, match="its sections do not say which jobs are done"):
        start(case)(progress=Progress(saved=state))


@dataclasses.dataclass(frozen=True)
class Thread(Team):
    """One of several threads that work as processes do."""

    table: list[bytes] = dataclasses.field(default_factory=list)
    barrier: threading.Barrier = dataclasses.field(default_factory=lambda: threading.Barrier(1))

    def exchange(self, own: bytes) -> list[bytes]:
        """Through memory."""
        self.table[self.rank] = own
        self.barrier.wait(60)
        given = list(self.table)
        self.barrier.wait(60)
        return given


def together(size: int, run: Callable[[Team], Bundle]) -> list[Bundle]:
    """What the threads of a team return."""
    table, barrier = [b""] * size, threading.Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: run(Thread(rank, size, table=table, barrier=barrier)), range(size)))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_team_makes_the_record_of_one_process(start, case: Case) -> None:
    """Every one of three has all of it, maps as well, and has trained only its share."""
    run = start(case)
    maps: list[list[Overlays]] = [[], [], [], []]
    trained: list[set[str]] = [set(), set(), set(), set()]

    def note(rank: int) -> dict[str, Callable[..., None]]:
        add = lambda event: trained[rank].add(event.phase) if event.metrics and "seed" in event.phase else None  # noqa: E731
        return {"on_overlays": maps[rank].append, "on_event": add}

    whole = run(**note(3))
    made = together(3, lambda team: run(team=team, **note(team.rank)))

    assert {whole.content} == {bundle.content for bundle in made}
    assert trained[3] == trained[0] | trained[1] | trained[2]
    assert len(trained[3]) == sum(map(len, trained[:3]))
    for own in maps[:3]:
        assert [each.maps.tolist() for each in maps[3]] == [each.maps.tolist() for each in own]


def test_a_team_that_was_stopped_continues(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each from the state of its own share, one of which had nothing yet; the plain baseline is the leader's."""
    run = start(CASES["equal bytes"])
    whole = run()
    left: list[list[Bundle]] = [[], []]
    with monkeypatch.context() as patch:
        patch.setattr(_partial, "INTERVAL_S", 0.0)
        patch.setattr(_partial, "SHARE", 1e9)
        together(2, lambda team: run(team=team, progress=Progress(save=left[team.rank].append, team=team)))
    saved = [left[0][1], None]
    events: list[Event] = []
    made = together(
        2, lambda team: run(team=team, on_event=events.append, progress=Progress(saved=saved[team.rank], team=team))
    )

    assert [3, 1] == [done(states[-1]) for states in left]
    assert {whole.content} == {bundle.content for bundle in made}
    assert not any(event.phase == "plain baseline" for event in events)


def jobs_of(costs: Mapping[str, float], groups: Mapping[str, str] | None = None) -> list[Job]:
    """Jobs that say their own names."""
    return [
        Job(key, cost, lambda _watch, key=key: Outcome({"is": key}), (groups or {}).get(key, ""))  # type: ignore[misc]
        for key, cost in costs.items()
    ]


def test_shares_are_balanced_and_keep_groups_together() -> None:
    """The dear ones first, each to whoever has the least; equal ones in turn."""
    jobs = jobs_of({"a": 1, "b": 5, "c": 2, "d": 3, "e": 1}, {"a": "g", "e": "g"})
    shares = [[job.key for job in share(jobs, Team(rank, 2))] for rank in range(2)]
    equal = [[job.key for job in share(jobs_of(dict.fromkeys("abcd", 2.0)), Team(rank, 2))] for rank in range(2)]

    assert [["b", "c"], ["a", "d", "e"]] == shares
    assert [["a", "c"], ["b", "d"]] == equal
    assert [job.key for job in share(jobs, Team())] == list("abcde")


def test_outcomes_come_in_the_order_of_the_jobs() -> None:
    """With the tensors, whoever asks."""
    tensors = {"raw": torch.ones(2)}
    jobs = [Job("x:y", 1.0, lambda _watch: Outcome({"half": 0.1}, tensors)), *jobs_of({"a": 1})]
    told: list[str] = []
    outcomes = Jobs().run(jobs, lambda job, finished: told.append(f"{job.key} {len(finished)}"))

    assert ["x:y", "a"] == list(outcomes)
    assert outcomes["x:y"].tensors["raw"].equal(tensors["raw"])
    assert ["x:y 1", "a 2"] == told
    assert Watch().start is None
