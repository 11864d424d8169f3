"""Stopping a stage at any safe point and going on gives the bits of never having stopped; other runs are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddlabel import _plugins, seeding
from ddlabel.bundle import Bundle, NewSection, StageRecord
from ddlabel.config import DistillConfig, TrainTeacherConfig
from ddlabel.data._dataset import Dataset, load
from ddlabel.errors import BundleError, InterruptedRunError, ResourceError, UsageError
from ddlabel.events import Event
from ddlabel.nets._net import build
from ddlabel.options import describe
from ddlabel.preprocess import describe_space
from ddlabel.space import Space
from ddlabel.stages import _partial, distill, train_teacher
from ddlabel.stages._partial import Progress, Saved, state_section
from ddlabel.teachers import Checkpoint, checkpoint_section
from ddlabel.trajectories import flatten

NET = "convnet-d1-w4-instance"
EPOCHS = 4
QUICK = {
    "steps": 3, "batch_real": 5, "batch_train": 5, "outer": 2, "inner": 2, "syn_steps": 2, "expert_epochs": 1,
    "init": "real", "min_start_epoch": 0, "max_start_epoch": 2, "current_max_start_epoch": None, "interval": None,
}  # fmt: skip
"""Options that make an optimising method finish in a blink, for those that have them."""


def quick_options(name: str) -> dict[str, Any]:
    known = {option.name for option in describe(_plugins.load("distill", name, "METHOD"))}
    return {option: value for option, value in QUICK.items() if option in known}


@pytest.fixture(scope="module")
def dataset(tiny: str) -> Dataset:
    """The tiny set."""
    return load(tiny)


@pytest.fixture(scope="module")
def experts(dataset: Dataset) -> Bundle:
    """A teacher with two trajectories."""
    return wandering(dataset, NET)


def wandering(dataset: Dataset, arch: str) -> Bundle:
    """Nets that wander a little every epoch."""
    info = dataset.info
    sections = []
    for member in range(2):
        draws = seeding.generator(member, "wander")
        net = build(arch, channels=info.channels, size=info.height, classes=len(info.classes), generator=draws)
        start = flatten(net)
        steps = 0.05 * torch.randn(EPOCHS, len(start), generator=draws)
        rows = torch.cat([start[None], start + steps.cumsum(dim=0)])
        name = f"trajectory.{member}"
        parameters = {"arch": arch, "member": member, "epochs": list(range(EPOCHS + 1)), "seed": member}
        sections.append(NewSection(name, "trajectory", {name: rows}, parameters=parameters))
        checkpoint = Checkpoint(f"teacher.{member}.{EPOCHS}", member, EPOCHS, arch, {"validation": 0.5, "test": 0.5})
        sections.append(checkpoint_section(net, checkpoint, seed=member))
    space = describe_space(Space("normalised", info.mean, info.std))
    record = StageRecord("train-teacher", {}, 0, [], {}, 0.0, 0.0, {})
    return Bundle.create("teacher", dataset.manifest() | {"space": space}, record, sections)


class Stop(Exception):
    """The plug was pulled."""


def stop_after(count: int) -> Callable[[Event], None]:
    """Pull the plug at the event of a step."""

    def on_event(event: Event) -> None:
        if event.phase == "distilling" and event.done == count:
            raise Stop

    return on_event


def stopped(start: Callable[..., Bundle], count: int, saved: Bundle | None = None) -> Bundle:
    """What a run that is stopped after a step leaves."""
    left: list[Bundle] = []
    progress = Progress(saved=saved, save=left.append)
    with pytest.raises(Stop):
        start(progress=progress, on_event=stop_after(count))
    progress.keep()
    return left[-1]


@pytest.fixture
def start(tiny: str) -> Callable[..., Bundle]:
    """A short run of dm with any option changed."""

    def run(settings: dict[str, Any] | None = None, progress=None, on_event=lambda _event: None, teachers=(), **more):
        config = DistillConfig(**({"data": tiny, "method": "dm", "ipc": 1, "arch": NET, "threads": 1} | more))
        options = {"steps": 3, "batch_real": 5} | (settings or {})
        return distill.run(config, options, progress=progress, on_event=on_event, teachers=teachers)

    return run


@pytest.mark.parametrize("name", _plugins.names("distill"))
@pytest.mark.fault(114)
def test_fault_114_stopped_anywhere_and_continued_equals_never_stopped(tiny: str, experts: Bundle, name: str) -> None:
    """Every method, at every step, through the bytes of a file: the content digest covers images, labels, history."""
    method = _plugins.load("distill", name, "METHOD")
    teachers = [experts] if method.needs else []
    if "scores.forgetting" in method.needs:
        teachers = [with_forgetting(tiny)]
    if "backbones" in method.needs:
        teachers = [wandering(load(tiny), "convnet-d1-w4-batch")]
    arch = None if "backbones" in method.needs else NET
    config = DistillConfig(data=tiny, method=name, ipc=2, arch=arch, pixels="float32", threads=1, self_test=0)
    options = quick_options(name)

    def start(**more: Any) -> Bundle:
        return distill.run(config, options, teachers=teachers, **more)

    whole = start()
    (total,) = {event.total for event in events_of(start) if event.phase == "distilling" and event.total}

    assert total >= 3
    for count in range(1, total + 1):
        left = stopped(start, count)
        continued = start(progress=Progress(saved=left))
        assert count == left.section(_partial.PROGRESS).parameters["done"]
        assert whole.content == continued.content, f"after {count} of {total} steps"


def with_forgetting(tiny: str) -> Bundle:
    """A teacher that counted how often its images were forgotten."""
    config = TrainTeacherConfig(data=tiny, arch=NET, epochs=1, scores="forgetting", threads=1)
    return train_teacher.run(config, {"score_nets": 1, "score_epoch": 2, "score_arch": NET})


def events_of(start: Callable[..., Any]) -> list[Event]:
    events: list[Event] = []
    start(on_event=events.append)
    return events


@pytest.mark.fault(114)
def test_fault_114_a_run_stopped_again_and_again(start, tmp_path) -> None:
    """State to state to state, each through a file."""
    saved = None
    for count in (1, 2, 3):
        path = tmp_path / f"{count}.partial"
        stopped(start, count, saved).save(path)
        saved = Bundle.open(path, verify=True)
    continued = start(progress=Progress(saved=saved))

    assert start().content == continued.content


def test_states_are_kept_on_a_timer(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """None before the interval has passed; one at every step when there is none; fewer when writing is slow."""
    left: list[Bundle] = []
    start(progress=Progress(save=left.append))
    patient = len(left)
    monkeypatch.setattr(_partial, "INTERVAL_S", 0.0)
    monkeypatch.setattr(_partial, "SHARE", 1e9)
    start(progress=Progress(save=left.append))
    eager = [bundle.section(_partial.PROGRESS).parameters["done"] for bundle in left]
    monkeypatch.setattr(_partial, "SHARE", 1e-9)
    slow: list[Bundle] = []
    start(progress=Progress(save=slow.append))

    assert 0 == patient
    assert [1, 2, 3] == eager
    assert 1 == len(slow)


def test_a_timed_state_that_cannot_be_written_is_a_warning(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work goes on; the result may still fit."""
    monkeypatch.setattr(_partial, "INTERVAL_S", 0.0)

    def fail(_bundle: Bundle) -> None:
        raise ResourceError("disk is full")

    events: list[Event] = []
    result = start(progress=Progress(save=fail), on_event=events.append)

    assert start().content == result.content
    assert "warning: the state could not be kept: disk is full" in [event.message for event in events]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ipc": 2}, ["option 'ipc' is 1, this run has 2"]),
        ({"seed": 4}, ["option 'seed' is 0, this run has 4"]),
        ({"settings": {"momentum": 0.1}}, ["option 'options.momentum' is 0.5, this run has 0.1"]),
        ({"settings": {"steps": 9}, "ipc": 3}, ["'ipc' is 1, this run has 3", "'options.steps' is 3, this run has 9"]),
        ({"method": "random", "settings": {}}, ["option 'method' is dm, this run has random"]),
        ({"arch": "convnet-d1-w8"}, ["'arch' is convnet-d1-w4-instance, this run has convnet-d1-w8-instance"]),
        ({"pixels": "float32"}, ["option 'pixels' is null, this run has float32"]),
        ({"threads": 2}, ["'threads' is 1, this run has 2"]),
        ({"validation": 0.3}, ["option 'validation' is 0.1, this run has 0.3", "digest of 'training images' is"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
@pytest.mark.fault(112)
def test_fault_112_other_options_are_refused(tiny: str, start, changes: dict[str, Any], said: list[str]) -> None:
    """A usage error with every difference, both sides named."""
    left = stopped(start, 2)
    settings = changes.pop("settings", {})
    config = DistillConfig(**({"data": tiny, "method": "dm", "ipc": 1, "arch": NET, "threads": 1} | changes))
    options = {} if config.method == "random" else {"steps": 3, "batch_real": 5} | settings
    with pytest.raises(UsageError) as caught:
        distill.run(config, options, progress=Progress(saved=left, save=lambda _bundle: None))

    assert all(sentence in str(caught.value) for sentence in said), str(caught.value)
    assert "--force to start over" in str(caught.value)


@pytest.mark.fault(112)
def test_fault_112_options_that_only_name_the_device_are_not_compared(start) -> None:
    """`auto` that meant the CPU and `cpu` are the same run."""
    left = stopped(start, 1)

    assert start(device="cpu").content == start(device="cpu", progress=Progress(saved=left)).content


@pytest.mark.parametrize("what", ["labels", "order", "test split only"])
@pytest.mark.fault(112)
def test_fault_112_other_images_are_refused(start, monkeypatch, dataset: Dataset, what: str) -> None:
    """Exit 3 for other training images and for the same ones in another order; distilling reads no test images."""
    left = stopped(start, 1)
    order = torch.arange(len(dataset.train)).flip(0)
    train = dataclasses.replace(dataset.train, pixels=dataset.train.pixels[order], labels=dataset.train.labels[order])
    changed = {
        "labels": dataclasses.replace(dataset, fingerprint="0" * 64),
        "order": dataclasses.replace(dataset, train=train),
        "test split only": dataclasses.replace(dataset, test=dataset.train),
    }[what]
    monkeypatch.setattr(distill, "load", lambda *_given, **_named: changed)
    progress = Progress(saved=left, save=lambda _bundle: None)
    if what == "test split only":
        start(progress=progress)
        return
    with pytest.raises(BundleError) as caught:
        start(progress=progress)

    sentence = {"labels": "data 'fingerprint' is", "order": "digest of 'training images' is"}[what]
    assert sentence in str(caught.value)


@pytest.mark.fault(112)
def test_fault_112_other_versions_are_refused(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, both named."""
    left = stopped(start, 1)
    monkeypatch.setattr("ddlabel.stages._stage.__version__", "99.0")
    with pytest.raises(BundleError, match=r"version of 'ddlabel' is .*, this run has 99.0"):
        start(progress=Progress(saved=left))


@pytest.mark.fault(112)
def test_fault_112_other_teachers_are_refused(tiny: str, experts: Bundle) -> None:
    """Exit 3, by their digests."""
    other = experts.with_stage(StageRecord("refine", {}, 1, [], {}, 0.0, 0.0, {}))
    config = DistillConfig(data=tiny, method="herding", ipc=1, arch=NET, threads=1)
    left = stopped(lambda **more: distill.run(config, teachers=[experts], **more), 2)
    with pytest.raises(BundleError) as caught:
        distill.run(config, teachers=[other], progress=Progress(saved=left))

    assert f"'input 1' is {experts.content[:12]}, this run has {other.content[:12]}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"done": 7}, "7 of 3 steps done"),
        ({"done": "many"}, "'many' of 3 steps done"),
        ({"total": None}, "2 of None steps done"),
    ],
)
@pytest.mark.fault(113)
def test_fault_113_a_state_that_makes_no_sense_is_refused(start, change: dict[str, Any], said: str) -> None:
    """Exit 3."""
    left = stopped(start, 2)
    section = left.section(_partial.PROGRESS)
    own = NewSection(section.name, "state", {}, parameters={**section.parameters, **change})
    forged = left.with_stage(StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {}), add=[own])
    with pytest.raises(BundleError, match=said):
        start(progress=Progress(saved=forged))


@pytest.mark.fault(113)
def test_fault_113_a_bundle_of_another_kind_is_refused(start, experts: Bundle) -> None:
    """A finished bundle is no state; neither is the state of another stage."""
    with pytest.raises(BundleError, match="kind 'teacher', expected the state of an interrupted run"):
        start(progress=Progress(saved=experts))
    left = stopped(start, 2)
    record = StageRecord("train-teacher", {}, 0, [], {}, 0.0, 0.0, {})
    sections = [
        NewSection(section.name, "state", {name: left.tensor(name) for name in section.tensors}, None,
                   parameters=section.parameters)
        for section in left.sections()
    ]  # fmt: skip
    with pytest.raises(BundleError, match="a state of 'train-teacher', this command is 'distill'"):
        start(progress=Progress(saved=Bundle.create("partial", left.manifest.data, record, sections)))


def test_a_state_of_another_run_is_discarded_only_when_work_begins(start) -> None:
    """A mistake on the command line does not cost it."""
    discarded: list[int] = []
    with pytest.raises(UsageError):
        start(settings={"momentum": 7}, progress=Progress(save=lambda _b: None, discard=lambda: discarded.append(1)))
    kept = len(discarded)
    start(progress=Progress(save=lambda _bundle: None, discard=lambda: discarded.append(1)))

    assert (0, 1) == (kept, len(discarded))


def test_seconds_of_all_runs_add_up(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history does not make an interrupted run look cheap."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    left = stopped(start, 2)
    entry = dict(left.manifest.history[-1])
    slow = StageRecord(
        entry["stage"], entry["config"], entry["seed"], [], {}, seconds=1000.0, started=0.0, host=entry["host"]
    )
    sections = [
        NewSection(item.name, "state", {name: left.tensor(name) for name in item.tensors}, parameters=item.parameters)
        for item in left.sections()
    ]
    saved = Bundle.create("partial", left.manifest.data, slow, sections)

    assert 1000 <= start(progress=Progress(saved=saved)).manifest.history[-1]["time"]["seconds"] < 1100


NAMES = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), st.integers(0, 3), max_size=4
)


@given(NAMES)
def test_states_with_any_names_come_back(names: dict[str, int]) -> None:
    """Capitals, colons, dashes and other scripts; every name its own tensor."""
    state = {name: torch.full((size,), float(size)) for name, size in names.items()}
    record = StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {})
    bundle = Bundle.create("partial", None, record, [state_section("state.method", state)])
    back = Saved(bundle, 1, 2).state("state.method")

    assert state.keys() == back.keys()
    assert all(torch.equal(state[name], back[name]) for name in state)


LAYOUTS = {
    "rows": torch.arange(24.0).reshape(2, 3, 4),
    "channels last": torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "transposed": torch.arange(6, dtype=torch.int64).reshape(2, 3).t(),
    "gaps": torch.arange(24.0).reshape(4, 6)[:, ::2],
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "half": torch.arange(3).to(torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_memory_come_back(layout: str) -> None:
    """Values, dtype and strides of what fills its memory; kernels round by them. Memory is aligned as torch's own."""
    tensor = LAYOUTS[layout]
    record = StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {})
    bundle = Bundle.create("partial", None, record, [state_section("state.method", {"x": tensor})])
    back = Saved(bundle, 1, 2).state("state.method")["x"]

    assert torch.equal(tensor, back)
    assert tensor.dtype == back.dtype
    assert back.stride() == (tensor.contiguous() if layout == "gaps" else tensor).stride()
    assert layout == "nothing" or 0 == back.data_ptr() % 64


@pytest.mark.parametrize("strides", ["x", [1], [-1, 1], [10**9, 1], [0, 0], [1.5, 1]], ids=str)
@pytest.mark.fault(113)
def test_fault_113_forged_strides_are_refused(strides: Any) -> None:
    """Before any memory is taken for them."""
    record = StageRecord("distill", {}, 0, [], {}, 0.0, 0.0, {})
    name = "state.method.x"
    section = NewSection("state.method", "state", {name: torch.zeros(2, 3)}, parameters={"strides": {name: strides}})
    saved = Saved(Bundle.create("partial", None, record, [section]), 1, 2)
    with pytest.raises(BundleError, match="do not fit shape"):
        saved.state("state.method")


def say_needs(monkeypatch: pytest.MonkeyPatch, needed: int) -> None:
    method = _plugins.load("distill", "dm", "METHOD")
    monkeypatch.setattr(method, "memory", lambda _self, _problem: needed, raising=False)
    monkeypatch.setattr(method, "memory_knobs", ("batch_real", "microbatch"), raising=False)


def test_what_cannot_fit_is_refused_before_work(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 6 with both numbers and the options to lower; a state of another run is not touched."""
    say_needs(monkeypatch, 10**15)
    events: list[Event] = []
    discarded: list[int] = []
    with pytest.raises(ResourceError) as caught:
        start(progress=Progress(save=lambda _b: None, discard=lambda: discarded.append(1)), on_event=events.append)

    assert "needs about 909.5 TiB of memory on 'cpu' beside the data set's" in str(caught.value)
    assert "lower --set batch_real (now 5) or --set microbatch (now auto) or --ipc (now 1)" in str(caught.value)
    assert not discarded
    assert not [event for event in events if event.phase == "distilling"]


def test_what_fits_is_said(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message with need and free memory."""
    say_needs(monkeypatch, 2**20)
    messages = [event.message for event in events_of(start) if event.phase == "memory"]

    assert 1 == len(messages)
    assert messages[0].startswith("needs about 1.0 MiB of memory on 'cpu'")
    assert messages[0].endswith("is free")


@pytest.mark.fault(110)
def test_fault_110_an_interrupt_before_the_first_step_keeps_nothing(start) -> None:
    """There is nothing to keep, and no state of nothing is written."""
    left: list[Bundle] = []
    progress = Progress(save=left.append)

    def interrupt(event: Event) -> None:
        assert event.phase == "fitting ZCA"
        raise InterruptedRunError(2)

    with pytest.raises(InterruptedRunError):
        start(space="zca", progress=progress, on_event=interrupt)
    progress.keep()

    assert not left
    assert progress.kept is None
