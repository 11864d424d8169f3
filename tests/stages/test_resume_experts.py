"""`train-teacher` stopped anywhere and continued: scoring nets, finished experts, the one in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.config import TrainTeacherConfig
from ddlabel.errors import BundleError, ResourceError, UsageError
from ddlabel.events import Event
from ddlabel.nets._net import on_meta
from ddlabel.stages import _experts, _partial
from ddlabel.stages._estimate import check_training, training_bytes
from ddlabel.stages._partial import Progress
from ddlabel.stages.train_teacher import run
from ddlabel.trajectories import Trajectories

NET = "convnet-d1-w4-batch"
Start = Callable[..., Bundle]


class Stop(Exception):
    """The plug was pulled."""


@pytest.fixture
def start(tiny: str) -> Start:
    """A short training with any option changed."""

    def train(settings: dict[str, Any] | None = None, progress: Progress | None = None, **more: Any) -> Bundle:
        on_event = more.pop("on_event", lambda _event: None)
        config = TrainTeacherConfig(**({"data": tiny, "arch": NET, "epochs": 3, "experts": 2, "threads": 1} | more))
        batch = {} if config.experts == 0 else {"batch": 16}
        return run(config, batch | (settings or {}), progress=progress, on_event=on_event)

    return train


def states_of(start: Start, monkeypatch: pytest.MonkeyPatch) -> list[Bundle]:
    """Every state of an undisturbed run."""
    states: list[Bundle] = []
    with monkeypatch.context() as patch:
        patch.setattr(_partial, "INTERVAL_S", 0.0)
        patch.setattr(_partial, "SHARE", 1e9)
        start(progress=Progress(save=states.append))
    return states


def done(bundle: Bundle) -> int:
    return bundle.section(_partial.PROGRESS).parameters["done"]


VARIANTS = {
    "plain": {},
    "kept checkpoints": {"keep": (0, 1, 2, 3), "experts": None},
    "momentum": {"settings": {"momentum": 0.9}},
    "adamw": {"settings": {"optimizer": "adamw", "lr": 1e-3}, "experts": 1},
    "averaged": {"settings": {"ema": True}, "experts": 1},
    "gsam": {"optimizer": "gsam", "experts": 1},
    "smooth": {"optimizer": "smooth", "experts": 1},
    "some epochs": {"keep_epochs": "1-2"},
    "whitened": {"space": "zca", "experts": 1},
    "later numbers": {"first_expert": 5},
    "scores": {"scores": "el2n", "settings": {"score_nets": 2, "score_epoch": 1}, "experts": 1},
    "forgetting alone": {"scores": "forgetting", "settings": {"score_nets": 3, "score_epoch": 2}, "experts": 0,
                         "arch": None},
    "curriculum": {"scores": "loss", "curriculum": "pad", "settings": {"score_nets": 1, "score_epoch": 1, "aee": 1,
                   "ir": 0.5, "r1_epoch": 0, "r2_epoch": 2}, "experts": 1},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.fault(114)
def test_fault_114_continued_from_any_state_equals_never_stopped(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: str
) -> None:
    """After every epoch of every net, through a file; teachers, trajectories, scores and history are covered."""
    options = VARIANTS[variant]

    def again(**more: Any) -> Bundle:
        return start(**options, **more)

    whole = again()
    states = states_of(again, monkeypatch)

    assert len(states) >= 3
    assert sorted({done(state) for state in states}) == [done(state) for state in states]
    for state in states:
        path = tmp_path / f"{done(state)}.partial"
        state.save(path)
        assert whole.content == again(progress=Progress(saved=Bundle.open(path))).content, f"after {done(state)} epochs"


@pytest.mark.parametrize("spooled", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("event", range(2, 28, 5))
@pytest.mark.fault(110)
def test_fault_110_stopped_in_the_middle_of_an_epoch(
    start: Start, monkeypatch: pytest.MonkeyPatch, spooled: bool, event: int
) -> None:
    """The state after the last whole epoch is kept, also of trajectories that wait on disk."""
    monkeypatch.setattr(_experts, "SPOOL_BYTES", 0 if spooled else 2**29)
    seen = [0]

    def pull(_event: Event) -> None:
        seen[0] += 1
        if seen[0] == event:
            raise Stop

    left: list[Bundle] = []
    progress = Progress(save=left.append)
    with pytest.raises(Stop):
        start(progress=progress, on_event=pull)
    progress.keep()
    saved = left[-1] if left else None

    assert start().content == start(progress=Progress(saved=saved)).content


def test_finished_experts_are_not_trained_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is missing is."""
    last = states_of(start, monkeypatch)[-1]
    events: list[Event] = []
    start(progress=Progress(saved=last), on_event=events.append)

    assert not [event for event in events if "teacher" in event.phase]
    assert "continuing after 6 of 6 epochs" in [event.message for event in events]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": 3}, "option 'experts' is 2, this run has 3"),
        ({"first_expert": 1}, "option 'first_expert' is 0, this run has 1"),
        ({"keep": (1,)}, "option 'keep' is [3], this run has [1, 3]"),
        ({"epochs": 4}, "option 'recipe.epochs' is 3, this run has 4"),
        ({"optimizer": "gsam"}, "option 'recipe.optimizer' is sgd, this run has gsam"),
        ({"settings": {"lr": 0.5}}, "option 'recipe.lr' is 0.01, this run has 0.5"),
        ({"settings": {"score_nets": 2, "score_epoch": 1}, "scores": "el2n"}, "option 'scores' is null, this run has"),
        ({"seed": 3}, "option 'seed' is 0, this run has 3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
@pytest.mark.fault(112)
def test_fault_112_a_killed_expert_run_resumed_with_other_settings_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    """Before any training, with both sides."""
    state = states_of(start, monkeypatch)[1]
    events: list[Event] = []
    with pytest.raises(UsageError) as caught:
        start(**changes, progress=Progress(saved=state, save=lambda _bundle: None), on_event=events.append)

    assert said in str(caught.value)
    assert not [event for event in events if event.total]


@pytest.mark.fault(113)
def test_fault_113_a_ledger_that_makes_no_sense_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section that names a missing one, and one without its numbers."""
    states = states_of(start, monkeypatch)
    for state, name, parameters in (
        (states[-1], "state.experts", {"sections": {"zero": []}}),
        (states[-1], "state.experts", {}),
        (states[0], "state.expert", {"number": None}),
    ):
        forged = [
            NewSection(name, "state", item.tensors, parameters=parameters) if item.name == name else item
            for item in (state.carry(section.name) for section in state.sections())
        ]
        entry = state.manifest.history[-1]
        same = StageRecord("train-teacher", entry["config"], 0, [], {}, 0.0, 0.0, entry["host"])
        bundle = Bundle.create("partial", state.manifest.data, same, forged)
        with pytest.raises(BundleError, match="do not say which nets are trained"):
            start(progress=Progress(saved=bundle))


def test_a_continued_run_gives_usable_trajectories(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of before and after the stop are of one trajectory."""
    state = states_of(start, monkeypatch)[1]
    whole, continued = (Trajectories([start(progress=progress)]) for progress in (None, Progress(saved=state)))

    assert range(4) == continued.epochs
    assert all(
        torch.equal(whole.checkpoint(expert, epoch), continued.checkpoint(expert, epoch))
        for expert in range(2)
        for epoch in continued.epochs
    )


def test_what_training_needs_is_said_and_refused_before_work(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory by net and batch; disk by what trajectories take."""
    events: list[Event] = []
    start(on_event=events.append)
    said = [event.message for event in events if event.phase == "memory"]
    monkeypatch.setattr("ddlabel.stages._estimate.free_memory", lambda _device: 1000)
    with pytest.raises(ResourceError, match=r"1000 B is free; lower --set batch \(now 16\) or the width of --arch"):
        start()
    monkeypatch.undo()
    with pytest.raises(ResourceError, match=r"trajectories needs about .* of disk, 10 B is free; lower --experts"):
        start(progress=Progress(save=lambda _bundle: None, free_bytes=10))

    assert 1 == len(said)


def test_the_estimate_of_training_grows_with_batch_and_width() -> None:
    """Maps dominate: eight times the batch needs nearly eight times the memory."""
    nets = [on_meta(f"convnet-d3-w{width}", channels=3, size=32, classes=10) for width in (32, 128)]
    narrow, wide = (training_bytes(net, (256, 3, 32, 32)) for net in nets)

    assert 3 < wide / narrow < 5
    assert 6 < training_bytes(nets[0], (2048, 3, 32, 32)) / narrow <= 8


def needed(monkeypatch: pytest.MonkeyPatch, **changes: object) -> tuple[int, list[str]]:
    """What is asked for, and the options named."""
    asked: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(
        "ddlabel.stages._estimate.refuse_beyond",
        lambda needed, _free, knobs, _device, _event, *, beside: asked.append((needed, list(knobs))),
    )
    options = {"experts": 1, "trajectories": 0, "disk": None, "data": 0} | changes
    net = on_meta("convnet-d1-w8", channels=3, size=8, classes=4)
    check_training(net, (4, 3, 8, 8), torch.device("cpu"), lambda _event: None, **options)  # type: ignore[arg-type]
    return asked[0] if asked else (0, [])


def test_what_training_needs_counts_the_whitened_copy_and_scoring_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets are trained one after the other, so that the larger step counts; of no experts, scoring alone."""
    wide = (on_meta("convnet-d1-w64", channels=3, size=8, classes=4), (128, 3, 8, 8))
    alone, scoring = needed(monkeypatch)[0], training_bytes(*wide)

    assert alone + 10**6 == needed(monkeypatch, encoded=10**6)[0]
    assert "--size" in needed(monkeypatch, encoded=10**6)[1]
    assert alone < scoring == needed(monkeypatch, scoring=wide)[0]
    assert ["the width of --set score_arch"] == needed(monkeypatch, scoring=wide)[1]
    assert scoring + 5 == needed(monkeypatch, scoring=wide, experts=0, encoded=5)[0]
    assert needed(monkeypatch, experts=0, encoded=5) == (0, [])
