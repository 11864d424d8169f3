"""`docs/adding.md` keeps its promise: one new file per plugin, found and used from the command line."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from ddlabel.bundle import Bundle

PAGE = Path(__file__).parent.parent / "docs" / "adding.md"

METHOD = '''"""The first images of each class (a test)."""
from dataclasses import dataclass
from ddlabel.options import opt
from ddlabel.distill._selection import Choice, Selection
import torch

@dataclass(frozen=True, kw_only=True)
class First(Selection):
    """Takes images in order. Differs from the authors' code in: nothing."""
    skip: int = opt(0, "images skipped", min=0)
    def choose(self, problem, label):
        return Choice(order=torch.arange(self.skip, self.skip + problem.ipc))

METHOD = First
'''
CODEC = '''"""Labels rounded to whole numbers (a test)."""
from dataclasses import dataclass
import torch
from ddlabel.codecs._codec import Codec

@dataclass(frozen=True, kw_only=True)
class Whole(Codec):
    """One byte a value."""
    def encode(self, values): return {"values": values.round().clamp(-127, 127).to(torch.int8)}
    def decode(self, parts, shape): return parts["values"].float().reshape(shape)
    def tolerance(self, values): return torch.full(values.shape[:2], 0.5, dtype=torch.float64)

CODEC = Whole
'''
NET = '''"""A linear classifier (a test)."""
from torch import nn
from ddlabel.nets._net import Family, Net, parse_options

class Linear(Net):
    """One layer."""
    def __init__(self, features, classes):
        super().__init__()
        self.classifier = nn.Linear(features, classes)
    def chain(self): return [nn.Identity()]
    def gather(self, maps): return maps.flatten(1)
    def classify(self, features): return self.classifier(features)

class LinearFamily(Family):
    """No options."""
    def canonical(self, options):
        parse_options("linear", options, {})
        return "linear"
    def build(self, options, *, channels, size, classes): return Linear(channels * size * size, classes)

NET = LinearFamily()
'''
DATASET = '''"""Stripes and dots (a test)."""
import torch
from ddlabel.data._dataset import DatasetInfo, RawData, Split, statistics

class Patterns:
    """Two classes of noisy patterns."""
    def load(self, path, size, on_event):
        generator = torch.Generator().manual_seed(0)
        def split(count):
            labels = torch.arange(2).repeat_interleave(count)
            noise = torch.randint(0, 120, (2 * count, 1, 8, 8), generator=generator)
            noise[count:, :, ::2] += 120
            return Split(noise.to(torch.uint8), labels)
        train, test = split(12), split(6)
        mean, std = statistics(train.pixels)
        info = DatasetInfo(name="patterns", classes=("dots", "stripes"), channels=1, height=8, width=8, mean=mean,
                           std=std, flip=True, licence="none")
        return RawData(info, train, test)

DATASET = Patterns()
'''
KIND = '''"""Both sides of an image (a test)."""
from dataclasses import dataclass
import torch
from ddlabel.options import opt
from ddlabel.labels._kind import Kind

@dataclass(frozen=True, kw_only=True)
class Sides(Kind):
    """The image and its mirror image, a few times over."""
    times: int = opt(1, "how often", min=1)
    @property
    def view_count(self): return 2 * self.times
    def view(self, images, image, view):
        chosen = images[image]
        return torch.where((view % 2 == 1)[:, None, None, None], chosen.flip(3), chosen)
    def parameters(self, size): return {"times": self.times, "size": size}

KIND = Sides
'''


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a module into a room, as if its file lay in the package."""

    def add(room: str, name: str, source: str) -> None:
        folder = tmp_path / room
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        package = importlib.import_module(f"ddlabel.{room}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])

    return add


def test_the_loss_of_the_page_works_as_printed(plug, run_cli, files) -> None:
    """The page's own code, its own command line."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    plug("losses", "huber", source)
    scored = run_cli(
        "evaluate", files.soft, "--data", files.data, "--arch", "mlp", "--seeds", "1", "--epochs", "2",
        "--loss", "huber", "--set", "delta=0.5", "--json",
    )  # fmt: skip
    listed = run_cli("methods", "huber")

    assert 0 == scored.code, scored.err
    assert '"delta": 0.5' in scored.out
    assert "--set delta=float  where the loss turns linear, in logits [> 0] (default 1.0)" in listed.out


def test_a_new_method_codec_net_and_data_set_are_one_file_each(plug, run_cli, tmp_path: Path) -> None:
    """All of them in one pipeline, without touching anything else."""
    for room, name, source in (
        ("distill", "first", METHOD),
        ("codecs", "whole", CODEC),
        ("nets", "linear", NET),
        ("data", "patterns", DATASET),
    ):
        plug(room, name, source)
    teacher, base, soft, scored = (tmp_path / f"{name}.ddset" for name in ("teacher", "base", "soft", "scored"))
    common = ("--data", "patterns", "--arch", "linear")
    outcomes = [
        run_cli("train-teacher", *common, "--epochs", "3", "-o", teacher),
        run_cli("distill", *common, "--method", "first", "--ipc", "2", "--set", "skip=1", "-o", base),
        run_cli("augment-labels", base, "--teacher", teacher, "--codec", "whole", "--self-test", "0", "-o", soft),
        run_cli("evaluate", soft, *common, "--seeds", "1", "--epochs", "3", "-o", scored),
        run_cli("inspect", scored),
    ]
    bundle = Bundle.open(scored)

    assert [0] * 5 == [outcome.code for outcome in outcomes], [outcome.err for outcome in outcomes]
    assert {"codec.whole"} <= set(bundle.manifest.requires)
    assert "linear" == bundle.manifest.evaluations[0]["results"][0]["arch"]


def test_a_new_label_kind_is_one_file(plug, run_cli, files, tmp_path: Path) -> None:
    """Labelled, read back, trained on beside random images; its options are checked like all others."""
    plug("labels", "sides", KIND)
    path = tmp_path / "sides.ddset"
    label = ("augment-labels", files.base, "--teacher", files.teacher, "--kind", "sides")
    outcomes = [
        run_cli(*label, "--set", "times=2", "-o", path),
        run_cli(
            "evaluate", path, "--data", files.data, "--arch", "mlp", "--seeds", "1", "--epochs", "2", "--labels",
            "sides", "--loss", "softce", "--baselines", "--teacher", files.teacher,
        ),
    ]  # fmt: skip

    assert [0] * 2 == [outcome.code for outcome in outcomes], [outcome.err for outcome in outcomes]
    assert 4 == Bundle.open(path).section("labels.sides").views
    assert 2 == run_cli(*label, "--set", "times=0", "-o", tmp_path / "none.ddset").code


def test_an_import_error_inside_a_plugin_is_not_hidden(plug, run_cli, files) -> None:
    """A broken plugin is a bug with its own message, never an unknown name."""
    plug("losses", "broken", '"""Broken."""\nimport no_such_module_at_all\n')
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        run_cli("evaluate", files.soft, "--data", files.data, "--loss", "broken")
