"""Labelling in batches: stopped anywhere and continued it gives the same bits, and teachers are tested before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddlabel.bundle import Bundle, NewSection
from ddlabel.config import AugmentLabelsConfig
from ddlabel.distilled import read_distilled, read_stored
from ddlabel.errors import BundleError, UsageError
from ddlabel.events import Event
from ddlabel.stages import _labelling, augment_labels
from ddlabel.stages._partial import Progress, state_section
from ddlabel.stages._self_test import check_recorded, least_accuracy, reordered_accuracy

KINDS = [
    ({"kind": "soft"}, {}),
    ({"kind": "dense", "codec": "q8"}, {"grid": "3", "ratio": "1/2"}),
    ({"kind": "fkd", "codec": "f16"}, {"views": "7", "replay": "explicit"}),
    ({"kind": "feature"}, {}),
    ({"kind": "attention", "checkpoint": "all"}, {"keep": "all"}),
]


class Stop(Exception):
    """The plug was pulled."""


@pytest.fixture
def label(files, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bundle]:
    """Label the base bundle, four views at once."""
    monkeypatch.setattr(_labelling, "VIEWS_AT_ONCE", 4)
    base, teacher = Bundle.open(files.base), Bundle.open(files.teacher)

    def run(config: dict[str, Any], settings: dict[str, str], on_event=lambda _event: None, progress=None) -> Bundle:
        made = AugmentLabelsConfig(**{"threads": 1, **config})
        return augment_labels.run(base, made, settings, teachers=[teacher], on_event=on_event, progress=progress)

    return run


def interrupted(label: Callable[..., Bundle], config: dict[str, Any], settings: dict[str, str], at: int) -> Bundle:
    """What a run that is stopped at a step leaves."""
    left: list[Bundle] = []
    steps = 0

    def on_event(event: Event) -> None:
        nonlocal steps
        steps += event.phase.startswith("labelling")
        if steps == at:
            raise Stop

    progress = Progress(save=left.append)
    with pytest.raises(Stop):
        label(config, settings, on_event, progress)
    progress.keep()
    return left[-1]


@pytest.mark.parametrize(("config", "settings"), KINDS, ids=[config["kind"] for config, _settings in KINDS])
def test_stopped_anywhere_and_continued_equals_never_stopped(
    label: Callable[..., Bundle], config: dict[str, Any], settings: dict[str, str], tmp_path: Path
) -> None:
    """At the first and at a later step, through the bytes of a file."""
    whole = label(config, settings)
    for at in (1, 2):
        interrupted(label, config, settings, at).save(tmp_path / f"{at}.partial")
        saved = Bundle.open(tmp_path / f"{at}.partial")
        seen: list[int] = []
        rest = label(config, settings, lambda event, seen=seen: seen.append(event.done), Progress(saved=saved))

        assert whole.content == rest.content
        assert saved.section("state.progress").parameters["done"] not in seen


def test_a_state_of_other_labels_is_refused(label: Callable[..., Bundle]) -> None:
    """Other options, and answers that are not of these views."""
    saved = interrupted(label, *KINDS[0], 1)
    with pytest.raises(UsageError, match="cannot continue"):
        label({"kind": "soft", "codec": "f16"}, {}, progress=Progress(saved=saved))
    for values in (torch.zeros(3, 4), torch.zeros(4, 5), torch.zeros(4), torch.zeros(4, 4).double()):
        sections = [saved.section("state.progress")]
        state = NewSection("state.progress", "state", {}, parameters=dict(sections[0].parameters))
        forged = Bundle.create(
            "partial", saved.manifest.data, _record(saved), [state, state_section("state.labels", {"values": values})]
        )
        with pytest.raises(BundleError, match="is not of these labels"):
            label(*KINDS[0], progress=Progress(saved=forged))


def _record(bundle: Bundle) -> Any:
    from ddlabel.bundle import StageRecord

    entry = bundle.manifest.history[-1]
    files = [type("Named", (), one)() for one in entry["inputs"]]
    return StageRecord(entry["stage"], entry["config"], entry["seed"], files, {}, 0.0, 0.0, entry["host"])


def test_images_are_decoded_a_few_at_a_time(label: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for kinds whose views are made of several images."""
    from ddlabel.distilled import StoredSet

    most = 0
    encode = StoredSet.encode

    def watched(self: StoredSet, rows: Any = slice(None)) -> torch.Tensor:
        nonlocal most
        found = encode(self, rows)
        most = max(most, len(found))
        return found

    monkeypatch.setattr(StoredSet, "encode", watched)
    seen = {}
    for config, settings in KINDS:
        most = 0
        label(config | {"self_test": 0.0}, settings)
        seen[config["kind"]] = most

    assert seen == {"soft": 4, "dense": 2, "fkd": 12, "feature": 4, "attention": 4}


def test_stored_images_decode_to_the_same(files) -> None:
    """In pieces as in one."""
    bundle = Bundle.open(files.base)
    whole, stored = read_distilled(bundle), read_stored(bundle)

    assert torch.equal(whole.images, torch.cat([stored.encode(slice(at, at + 5)) for at in (0, 5, 10)]))
    assert (whole.ipc, len(whole.labels), 8) == (stored.ipc, len(stored), stored.side)


def test_resume_on_the_command_line(run_cli, files, tmp_path: Path) -> None:
    """An option of the command; without a state it starts, and a state that is left is said to be there."""
    output = tmp_path / "s.ddset"
    arguments = ("augment-labels", files.base, "--teacher", files.teacher, "-o", output)
    begun = run_cli(*arguments, "--resume")
    (tmp_path / "t.ddset.partial").write_bytes(b"no bundle")
    refused = run_cli(*arguments[:-1], tmp_path / "t.ddset", "--resume")

    assert begun.code == 0, begun.err
    assert "s.ddset.partial" in begun.err
    assert refused.code == 3
    assert not Path(f"{output}.partial").exists()


def permuted(teacher: Bundle, order: list[int]) -> Bundle:
    """The teacher with the outputs of its last layer in another order, recorded accuracies unchanged."""
    sections = []
    for section in teacher.sections("teacher"):
        tensors = {name: teacher.tensor(name) for name in section.tensors}
        last = sorted({name.rpartition(".")[0] for name in tensors if len(tensors[name]) == 4})[-1]
        tensors |= {f"{last}.{part}": tensors[f"{last}.{part}"][order] for part in ("weight", "bias")}
        sections.append(NewSection(section.name, "teacher", tensors, parameters=dict(section.parameters)))
    return Bundle.create("teacher", teacher.manifest.data, _record(teacher), sections)


def test_a_permuted_teacher_is_refused_with_advice(run_cli, files, tmp_path: Path) -> None:
    """By real images; of distilled ones there are too few here to tell. --self-test 0 takes it all the same."""
    other = tmp_path / "permuted.ddset"
    permuted(Bundle.open(files.teacher), [1, 2, 3, 0]).save(other)
    arguments = ("augment-labels", files.base, "--teacher", other, "-o", tmp_path / "s.ddset", "--force")
    tested = run_cli(*arguments, "--data", files.data)
    untested = run_cli(*arguments, "--self-test", "0")

    assert tested.code == 3
    assert "the order of its classes is probably permuted" in tested.err
    assert "or lower --self-test" in tested.err
    assert untested.code == 0, untested.err


def test_a_teacher_at_chance_is_refused_by_what_is_recorded(run_cli, files, tmp_path: Path) -> None:
    """Without --data; the accuracy of held-out images stands in the teacher."""
    weak = tmp_path / "weak.ddset"
    run_cli(
        "train-teacher", "--data", files.data, "--arch", "convnet-d1-w8", "--epochs", "1", "--keep", "1",
        "--set", "lr=1e-6", "-o", weak,
    )  # fmt: skip
    arguments = ("augment-labels", files.base, "--teacher", weak, "-o", tmp_path / "s.ddset", "--force")
    outcome = run_cli(*arguments)

    assert outcome.code == 3
    assert "validation images, expected at least 62%" in outcome.err
    assert "permuted" not in outcome.err
    assert run_cli(*arguments, "--kind", "feature", "--set", "keep=mean").code == 0


def _asked(labels: torch.Tensor, answers: torch.Tensor, recorded: float | None, factor: float = 3.0) -> list[str]:
    """What `check_recorded` says of a net that answers so."""
    from ddlabel.teachers import Checkpoint

    class Says(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at, self.never = 0, torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.at += len(images)
            return torch.nn.functional.one_hot(answers[self.at - len(images) : self.at], 4).float()

    said: list[str] = []
    checkpoint = Checkpoint("teacher.0.9", 0, 9, "mlp", {"validation": None, "test": recorded})
    images = torch.zeros(len(labels), 1, 2, 2)
    check_recorded([checkpoint], [Says()], images, labels, 4, factor, lambda event: said.append(event.message or ""))
    return said


def test_what_is_recorded_decides_and_agreement_is_said() -> None:
    """No record: said, not refused; low agreement alone refuses nothing; an order that fits does."""
    labels = torch.arange(40) // 10
    noise = torch.randint(4, (40,), generator=torch.Generator().manual_seed(1))

    assert "90.0% of test images; agrees with 100.0%" in _asked(labels, labels, 0.9)[0]
    assert "no accuracy is recorded, --data tests it" in _asked(labels, labels, None)[0]
    assert len(_asked(labels, noise, 0.9)) == 1
    assert _asked(labels, noise, 0.1, factor=0.0) == []
    with pytest.raises(BundleError, match=r"was right for 10\.0% of test images"):
        _asked(labels, labels, 0.1)
    with pytest.raises(BundleError, match="would be right for 100%: the order of its classes is probably permuted"):
        _asked(labels, (labels + 1) % 4, 0.9)


def test_guesses_at_random_gain_nothing_by_another_order() -> None:
    """The order is scored on guesses that did not choose it; 200 classes, 512 images."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(200, (512,), generator=draws)
    order = torch.randperm(200, generator=draws)

    assert reordered_accuracy(torch.randint(200, (512,), generator=draws), labels) < least_accuracy(200, 3.0)
    assert reordered_accuracy(order[labels], labels) > 0.5
    assert reordered_accuracy(torch.zeros(1).long(), torch.zeros(1).long()) == 0


@pytest.mark.parametrize(
    ("kind", "codec", "settings", "message"),
    [
        ("soft", "topk-ms", {"k": "4"}, "k is 4 for labels of 4 classes, expected k from 1 to 3"),
        ("dense", "vq", {"groups": "5"}, "groups is 5 for labels of 4 classes"),
        ("dense", "lowrank", {"rank": "26"}, "rank is 26 for labels of 25 views"),
        ("feature", "lowrank", {"rank": "2"}, "rank is 2 for labels of 1 views"),
        ("attention", "topk-min", {"k": "1000"}, "k is 1000"),
    ],
)
def test_options_that_no_label_can_have_are_refused_before_any_is_asked_for(
    label: Callable[..., Bundle], kind: str, codec: str, settings: dict[str, str], message: str
) -> None:
    """The classes and views are known before a teacher answers."""
    seen: list[Event] = []
    with pytest.raises(UsageError) as caught:
        label({"kind": kind, "codec": codec}, settings, seen.append)

    assert message in caught.value.message
    assert not [event for event in seen if event.phase.startswith("labelling")]
