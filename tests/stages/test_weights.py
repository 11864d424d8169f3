"""`train-teacher --weights`: what fits starts a net, what does not is refused by name, nothing is executed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ddlabel.bundle import Bundle
from ddlabel.config import TrainTeacherConfig
from ddlabel.errors import DataError, UsageError
from ddlabel.nets._net import build, on_meta
from ddlabel.stages import _partial
from ddlabel.stages._partial import Progress
from ddlabel.stages._weights import read_weights
from ddlabel.stages.train_teacher import run
from ddlabel.teachers import Teacher

NET = "convnet-d1-w4-batch"


def state(name: str = NET, *, classes: int = 4, size: int = 8) -> dict[str, torch.Tensor]:
    net = build(name, channels=3, size=size, classes=classes, generator=torch.Generator().manual_seed(5))
    return net.state_dict()


def train(tiny: str, path: Path | str, settings: dict[str, Any] | None = None, **more: Any) -> Bundle:
    progress = more.pop("progress", None)
    options = {"data": tiny, "arch": NET, "epochs": 0, "weights": str(path), "threads": 1}
    return run(TrainTeacherConfig(**(options | more)), settings, progress=progress)


@pytest.fixture(scope="module")
def file(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that fit the tiny set."""
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_file(state(), path)
    return path


def test_no_epochs_keep_the_weights_as_they_are(tiny: str, file: Path) -> None:
    """As epoch 0, scored; the history has digest and base name, and no path."""
    bundle = train(tiny, file)
    (checkpoint,) = Teacher(bundle).checkpoints
    entry = bundle.manifest.history[-1]

    assert (checkpoint.member, checkpoint.epoch) == (0, 0)
    assert checkpoint.accuracy["test"] is not None
    stored = Teacher(bundle).net(checkpoint).state_dict()
    assert all(torch.equal(stored[name], value) for name, value in state().items())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert entry["config"]["weights"] == {"file": "own.safetensors", "sha256": digest}
    assert str(file.parent) not in str(entry)
    assert (entry["config"]["epochs"], entry["metrics"]["flops"]["training"]) == (0, 0)


def test_training_starts_from_the_weights(tiny: str, file: Path) -> None:
    """Epoch 0 is the file, epoch 1 is trained; without the file both are others."""
    with_file, without = (
        train(tiny, file, {"batch": 16}, epochs=1, keep=(0, 1), weights=weights) for weights in (str(file), None)
    )
    name = "classifier.weight"

    assert torch.equal(with_file.tensor(f"teacher.0.0.{name}"), state()[name])
    assert not torch.equal(with_file.tensor(f"teacher.0.1.{name}"), state()[name])
    assert not torch.equal(without.tensor(f"teacher.0.0.{name}"), state()[name])
    assert without.manifest.history[-1]["config"]["weights"] is None


def test_a_stopped_run_continues_to_the_same_bits_and_only_with_the_same_file(
    tiny: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is part of what a run is."""
    states: list[Bundle] = []
    monkeypatch.setattr(_partial, "INTERVAL_S", 0.0)
    monkeypatch.setattr(_partial, "SHARE", 1e9)
    whole = train(tiny, file, {"batch": 16}, epochs=2, progress=Progress(save=states.append))
    other = tmp_path / "own.safetensors"
    save_file({name: value + 1 for name, value in state().items()}, other)

    again = train(tiny, file, {"batch": 16}, epochs=2, progress=Progress(saved=states[0]))
    assert whole.content == again.content
    with pytest.raises(UsageError, match=r"weights\.sha256"):
        train(tiny, other, {"batch": 16}, epochs=2, progress=Progress(saved=states[0]))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_torchs_own_files(tmp_path: Path, legacy: bool, wrapped: str | None) -> None:
    """New and old, bare and as scripts wrap them, also with the prefix of parallel training and in half precision."""
    tensors = {f"module.{name}": value for name, value in state().items()}
    kept = tensors if wrapped is None else {wrapped: tensors, "epoch": 3}
    torch.save(kept, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    read = read_weights(str(tmp_path / "w.pth"))
    net = on_meta(NET, channels=3, size=8, classes=4)

    read.check(net, NET)
    assert all(torch.equal(read.tensors[name], value) for name, value in state().items())


def test_torchvisions_names_and_what_files_may_lack(tmp_path: Path) -> None:
    """A state dict of torchvision fits its net; counters of batch norm may be missing, halves are widened."""
    from torchvision import models

    theirs = models.mobilenet_v2(weights=None, num_classes=3).state_dict()
    kept = {name: value.half() for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "w.pth")
    read = read_weights(str(tmp_path / "w.pth"))
    net = build("mobilenet-v2", channels=3, size=64, classes=3, generator=torch.Generator().manual_seed(0))
    read.check(net, "mobilenet-v2")
    read.put(net)

    ours = net.state_dict()
    assert torch.equal(ours["classifier.1.weight"], theirs["classifier.1.weight"].half().float())
    assert int(ours["features.0.1.num_batches_tracked"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kept: kept.pop("classifier.bias"), "the file has no 'classifier.bias'; name the net of the file"),
        (lambda kept: kept.update(more=torch.ones(1)), "has the unknown 'more'"),
        (
            lambda kept: kept.update(state(classes=7)),
            "has 'classifier.weight' as 7 x 64 of float32, expected 4 x 64 of float32, 'classifier.bias' as 7 of .*; "
            "its classes are others: use data of the classes that the file was trained on; heads are never cut",
        ),
        (lambda kept: kept.update({"classifier.bias": torch.ones(4, dtype=torch.complex64)}), "as 4 of complex64"),
        (lambda kept: kept.update({"classifier.bias": torch.ones(4, dtype=torch.int64)}), "as 4 of int64"),
    ],
    ids=["missing", "unexpected", "classes", "complex", "integers"],
)
def test_what_does_not_fit_is_refused(tiny: str, tmp_path: Path, change: Any, message: str) -> None:
    """Naming the first tensors on both sides."""
    kept = dict(state())
    change(kept)
    save_file(kept, tmp_path / "w.safetensors")

    with pytest.raises(UsageError, match=message):
        train(tiny, tmp_path / "w.safetensors")


def test_numbers_that_are_not_finite_are_refused(tiny: str, tmp_path: Path) -> None:
    """Naming the tensor."""
    kept = state()
    kept["classifier.bias"][1] = float("inf")
    save_file(kept, tmp_path / "w.safetensors")

    with pytest.raises(DataError, match=r"'classifier.bias' is not finite"):
        train(tiny, tmp_path / "w.safetensors")


class Touch:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_objects_are_never_executed(tmp_path: Path, legacy: bool) -> None:
    """Refused with the path and what to do instead."""
    path, victim = tmp_path / "evil.pth", tmp_path / "victim"
    torch.save({"weight": Touch(victim)}, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(DataError, match=r"evil.pth' holds Python objects beside tensors.*safetensors"):
        read_weights(str(path))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of weights"),
        (b"hello, world", "no file of weights"),
        (b"PK\x03\x04 and nothing more", "damaged file of weights, or none"),
        (b"\x80\x02 and nothing more", "damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{", "damaged safetensors"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{'a': not json}  ", "damaged safetensors"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """With their path, whatever they hold."""
    path = tmp_path / "w.pth"
    path.write_bytes(content)

    with pytest.raises(DataError, match=message) as caught:
        read_weights(str(path))
    assert str(path) in str(caught.value)


def test_bundles_folders_and_missing_files_are_refused(tiny: str, file: Path, tmp_path: Path) -> None:
    """Saying what they are."""
    train(tiny, file).save(tmp_path / "t.ddset")
    torch.save([torch.ones(2)], tmp_path / "list.pt")

    with pytest.raises(DataError, match="is a bundle"):
        read_weights(str(tmp_path / "t.ddset"))
    with pytest.raises(DataError, match="no tensors by name"):
        read_weights(str(tmp_path / "list.pt"))
    with pytest.raises(UsageError, match="a folder, expected a file of weights"):
        read_weights(str(tmp_path))
    with pytest.raises(UsageError, match="no such file"):
        read_weights(str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": None}, "'epochs' is 0 and there are no --weights"),
        ({"experts": 2, "keep": (1,)}, "'experts' is of training.*'keep' is of training"),
        ({"settings": {"lr": "1"}}, "'set lr' is of training, and --epochs 0 trains nothing"),
        ({"epochs": 1, "experts": 0, "scores": "el2n"}, "'weights' is of the nets that --experts trains, which are 0"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tiny: str, options: dict[str, Any], message: str) -> None:
    """Before any file is read."""
    more = dict(options)
    settings = more.pop("settings", None)

    with pytest.raises(UsageError, match=message):
        train(tiny, "never-read.pth", settings, **more)


def test_the_command_line(run_cli, tiny: str, file: Path, tmp_path: Path) -> None:
    """One line keeps a file as a teacher."""
    base = ("train-teacher", "--data", tiny, "--weights", file, "--epochs", "0", "-o", tmp_path / "t.ddset")
    outcome, wrong = run_cli(*base, "--arch", NET), run_cli(*base, "--arch", "convnet-d1-w8", "--force")

    assert (outcome.code, outcome.out) == (0, ""), outcome.err
    assert wrong.code == 2
    assert "do not fit net 'convnet-d1-w8-instance'" in wrong.err
